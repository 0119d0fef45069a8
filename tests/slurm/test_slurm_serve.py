"""slurm/serve.sh: the server runs on a node, is reached with what the job's output says, and ends with the job."""

import json
import re
import urllib.error
import urllib.request

import pytest

ON_ONE_NODE = ("--gpus-per-node=0", "--cpus-per-task=1")
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(port, path, key=None, body=None):
    headers = {"Authorization": "Bearer " + key} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers, data=body and json.dumps(body).encode())
    with OPEN.open(request, timeout=30) as answer:
        return json.load(answer)


def test_a_server_on_a_node(clone):
    job = clone.submit("serve.sh", "--max-sequences", 4, options=ON_ONE_NODE, model="inputs/tiny/model", device="cpu")
    job.wait_until(lambda: "serve: http://" in job.text(), "the server")
    text = job.text()
    port = int(re.search(r"ssh -N -L 7860:127\.0\.0\.1:(\d+) -J \S+@\S+ \S+@n\d\n", text).group(1))
    assert f"serve: http://127.0.0.1:{port} " in text and "http://localhost:7860" in text
    key_file = clone.folder / f"slurm-llmft-serve-{job.id}.key"
    key = key_file.read_text().strip()
    assert key_file.stat().st_mode & 0o077 == 0 and len(key) == 32 and key not in text
    assert [m["id"] for m in ask(port, "/v1/models", key)["data"]] == ["tiny"]  # the nodes share their network here
    answer = ask(port, "/v1/completions", key, {"prompt": "Hello", "max_tokens": 4})
    assert answer["usage"]["completion_tokens"] == 4
    with pytest.raises(urllib.error.HTTPError):
        ask(port, "/v1/models")
    job.cancel()
    job.wait("CANCELLED")
    job.wait_until(lambda: not job.rank_pids() and not key_file.exists(), "the server's end", 40)
    with pytest.raises(OSError):
        ask(port, "/health")


def test_its_settings(clone):
    job = clone.submit("serve.sh", options=ON_ONE_NODE, model="inputs/tiny/model", device="cpu", host="0.0.0.0", port=23456,
                       local_port=8080, login="login.example.org", api_key="")
    job.wait_until(lambda: "serve: http://" in job.text(), "the server")
    assert re.search(r"ssh -N -L 8080:n\d:23456 \S+@login\.example\.org\n", job.text())
    assert "key" not in job.text().split("then open")[1].splitlines()[0]
    assert ask(23456, "/v1/models")["data"]
    second = clone.submit("serve.sh", options=ON_ONE_NODE, model="inputs/tiny/model", device="cpu", port=23456)
    assert "the port is in use" in second.wait("FAILED", code=2)
    job.cancel()
    job.wait("CANCELLED")


def test_what_is_missing(fake, place):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    jobs = [(fake.submit("serve.sh", options=ON_ONE_NODE, cwd=elsewhere), "LLMFT_ROOT"),
            (fake.submit("serve.sh", options=ON_ONE_NODE, binary="./missing"), "make"),
            (fake.submit("serve.sh", options=ON_ONE_NODE, model="models/none"), "hf download"),
            (fake.submit("serve.sh", options=ON_ONE_NODE, adapter="runs/none/adapter"), "slurm/train.sh"),
            (fake.submit("serve.sh", options=ON_ONE_NODE, config="inputs/none.yaml"), "LLMFT_CONFIG")]
    for job, word in jobs:
        lines = [line for line in job.wait("FAILED", code=2).splitlines() if line]
        assert len(lines) == 1 and lines[0].startswith("error: ") and word in lines[0], lines
