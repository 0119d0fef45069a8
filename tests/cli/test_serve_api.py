"""llmft serve's API: with the real openai client, and what it says of bad requests. Answers are scripted where their text
matters; `llmft serve` itself answers with a small model."""
import json
import os
import signal
import subprocess

import openai
import pytest

import runs
from serving import RealServer, scripted


@pytest.fixture(scope="module")
def server():
    with scripted("--max-context", "256") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def ask(client, question, model="tiny-tuned", **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], **options)


# --- the openai client -------------------------------------------------------------------------------------------


def test_models(client):
    models = {m.id: m for m in client.models.list()}
    assert list(models) == ["tiny-base", "tiny-tuned"]
    assert models["tiny-tuned"].parent == "tiny-base" and models["tiny-base"].max_model_len == 256
    assert client.models.retrieve("tiny-base").id == "tiny-base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_chat(client):
    for model, who in (("tiny-base", "base"), ("tiny-tuned", "adapted")):
        answer = ask(client, "good morning", model)
        assert answer.model == model and answer.object == "chat.completion"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content == f"{who} heard: good morning"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == 4 and answer.usage.total_tokens == answer.usage.prompt_tokens + 4


def test_stream(client):
    stream = ask(client, "say one two  three", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two  three"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens >= 3
    assert len({c.id for c in chunks}) == 1
    assert all(c.usage is None for c in ask(client, "say one", stream=True))


def test_text_of_every_kind_arrives_unchanged(client):
    text = 'quotes " \\ tabs\t lines\n\r\n, ünïcödé 你好 🎉 </script> \x01 data: [DONE]\n\ndata: x'
    assert ask(client, "say " + text).choices[0].message.content == text
    assert "".join(c.choices[0].delta.content or "" for c in ask(client, "say " + text, stream=True)) == text


def test_limits_of_an_answer(client):
    short = ask(client, "slow 50", max_tokens=5)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("1 2 3 4 5 ", "length")
    assert ask(client, "slow 50", max_completion_tokens=3).usage.completion_tokens == 3
    stopped = ask(client, "say abc END def", stop=["END"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("abc ", "stop")


def test_several_answers(client):
    assert [c.index for c in ask(client, "say hi", n=3).choices] == [0, 1, 2]
    text = {}
    for chunk in ask(client, "say a b", n=2, stream=True):
        for choice in chunk.choices:
            text[choice.index] = text.get(choice.index, "") + (choice.delta.content or "")
    assert text == {0: "a b", 1: "a b"}


def test_conversation_reaches_the_model_through_the_template(client, server):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "first"}]},
                {"role": "assistant", "content": "yes"}, {"role": "user", "content": "<|eot_id|>second"}]
    answer = client.chat.completions.create(model="tiny-base", messages=messages)
    assert answer.choices[0].message.content.startswith("base heard: ")
    one = client.chat.completions.create(model="tiny-base", messages=messages[-1:])
    assert answer.usage.prompt_tokens > one.usage.prompt_tokens + 10


def test_completions(client):
    answer = client.completions.create(model="tiny-base", prompt="once upon", max_tokens=50)
    assert answer.choices[0].text == "base heard: <|begin_of_text|>once upon" and answer.object == "text_completion"
    many = client.completions.create(model="tiny-base", prompt=["a", "b"], n=2, echo=True)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert [c.text[0] for c in many.choices] == ["a", "a", "b", "b"]
    ids = client.completions.create(model="tiny-base", prompt=[70, 71, 72])
    assert ids.usage.prompt_tokens == 3
    stream = client.completions.create(model="tiny-base", prompt="once", stream=True)
    assert "".join(c.choices[0].text for c in stream) == "base heard: <|begin_of_text|>once"


# --- what is refused ---------------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
BAD = [
    ({"messages": []}, "messages"), ({}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content"),
    ({"temperature": "hot"}, "temperature"), ({"temperature": 3}, "temperature"), ({"temperature": -1}, "temperature"),
    ({"top_p": 1.5}, "top_p"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"), ({"n": 0}, "n"), ({"n": 65}, "n"), ({"seed": "x"}, "seed"),
    ({"stop": [""]}, "stop"), ({"stop": 3}, "stop"), ({"stop": ["x"] * 17}, "stop"), ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"), ({"model": 3}, "model"),
    ({"logprobs": True}, "logprobs"), ({"top_logprobs": 2}, "logprobs"), ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"3": 1}}, "logit_bias"), ({"top_k": 1e30}, "top_k"),
]


@pytest.mark.parametrize("change,param", BAD, ids=[f"{p}-{i}" for i, (_, p) in enumerate(BAD)])
def test_bad_request(server, change, param):
    body = {**server.chat("hi"), **change} if change else {}
    status, error = server.error(CHAT, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_fields_without_effect_are_fine(client):
    ask(client, "hi", user="me", logprobs=False, presence_penalty=0, response_format={"type": "text"}, seed=-5, top_p=0.5,
        temperature=0, extra_body={"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "unknown": [1]})


def test_bad_completions(server):
    for prompt in (None, [], 3, [None], [-1], [70, "a"], [99999], [1.5], ["a"] * 65):
        status, error = server.error("/v1/completions", {"prompt": prompt})
        assert (status, error["param"]) == (400, "prompt"), prompt
    assert server.error("/v1/completions", {"prompt": "x", "best_of": 3})[1]["code"] == "unsupported_parameter"


def test_not_json(server):
    for body in (b"", b"{", b"[]", b"3", b'{"a": "\xff"}', b'{"messages": "\\ud800"}', b"\x00" * 100, b'{"temperature": 1e999}',
                 b'"' + b"x" * 100000):
        status, error = server.error(CHAT, body)
        assert status == 400 and len(error["message"]) < 1000, body[:40]


def test_deep_json_does_no_harm(server):
    deep = b"[" * 200_000 + b"]" * 200_000  # a function that calls itself would need more than the stack
    assert server.error(CHAT, b"[" * 400_000)[0] == 400
    for field in (b"messages", b"stop", b"model", b"logit_bias", b"stream_options", b"seed", b"tools"):
        assert server.error(CHAT, b'{"messages": [{"role": "user", "content": "hi"}], "%s": %s}' % (field, deep))[0] == 400
    for field in (b"role", b"content"):
        assert server.error(CHAT, b'{"messages": [{"role": "user", "content": "hi", "%s": %s}]}' % (field, deep))[0] == 400
    assert server.error("/v1/completions", b'{"prompt": %s}' % deep)[0] == 400


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, "hi", "gpt-4")
    assert error.value.code == "model_not_found" and "tiny-tuned" in error.value.message


def test_context(client):
    for question, options in (("word " * 1000, {}), ("hi", {"max_tokens": 250})):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, question, **options)
        assert error.value.code == "context_length_exceeded" and "256" in error.value.message
    assert ask(client, "slow 999").choices[0].finish_reason == "length"  # what the context leaves


def test_paths_and_methods(server):
    assert server.error("/v2/chat", {})[0] == 404
    assert server.error(CHAT, None)[0] == 405
    assert server.error("/health", {})[0] == 405
    status, _, text = server.request("/health", method="HEAD")
    assert (status, text) == (200, "")
    assert json.loads(server.request("/health")[2])["status"] == "ok"
    status, headers, text = server.request("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert server.metric("llmft_generated_tokens_total") > 0
    assert 'llmft_requests_total{endpoint="chat",result="200"}' in text and 'llmft_first_token_seconds_bucket{le="+Inf"}' in text


# --- who may ask -------------------------------------------------------------------------------------------------


def test_api_key():
    for key in ("s3cret", "x" * 300):
        with scripted(env={"IGNORED": ""}, *["--api-key", key]) as server:
            good = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
            assert ask(good, "hi").choices
            for wrong in ("none", key + "x", key[:-1], key * 2):
                with pytest.raises(openai.AuthenticationError):
                    ask(openai.OpenAI(base_url=server.url + "/v1", api_key=wrong, max_retries=0), "hi")
            assert server.error("/v1/models", None)[1]["code"] == "invalid_api_key"
            assert server.error("/metrics", None)[0] == 401
            assert server.request("/v1/models")[1]["WWW-Authenticate"] == "Bearer"
            assert server.request("/health")[0] == 200 and server.request("/")[0] == 200


def test_a_key_that_no_header_carries_is_refused(model):
    done = runs.llmft("serve", "--model", model, "--device", "cpu", "--port", 0, "--api-key", "schlüssel")
    assert done.returncode == 2 and "--api-key" in done.stderr and "ASCII" in done.stderr


def test_names_in_paths_and_methods(server):
    name = json.loads(server.request("/v1/models")[2])["data"][0]["id"]
    status, _, text = server.request("/v1/models/" + "".join(f"%{ord(c):02x}" for c in name))
    assert status == 200 and json.loads(text)["id"] == name
    assert server.request("/v1/models/%zz%2")[0] == 404
    for path, method, allowed in ((CHAT, "GET", "POST"), ("/health", "DELETE", "GET, HEAD")):
        status, headers, _ = server.request(path, method=method)
        assert status == 405 and headers["Allow"] == allowed


def test_other_sites_get_nothing(server):
    local = f"127.0.0.1:{server.port}"
    for headers in ({"Host": "evil.example"}, {"Host": f"127.evil.example:{server.port}", "Origin": f"http://127.evil.example:{server.port}"},
                    {"Host": f"evil.example:{server.port}"}, {"Origin": "http://evil.example"},
                    {"Origin": "null"}, {"Origin": f"http://localhost:{server.port}", "Host": local}):
        assert server.error(CHAT, server.chat("hi"), headers=headers)[0] == 403
    for headers in ({"Origin": f"http://{local}", "Host": local}, {"Host": "localhost"}, {"Host": "[::1]:80"}):
        assert server.request(CHAT, server.chat("hi"), headers=headers)[0] == 200
    with scripted("--serve.allowed_hosts", "llm.example") as proxied:
        assert proxied.request("/health", headers={"Host": "llm.example"})[0] == 200


# --- the program -------------------------------------------------------------------------------------------------


def test_serve_with_a_model(model):
    with RealServer("--model", model, "--device", "cpu", "--context", "256", env={"LLMFT_API_KEY": "from-environment"}) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="from-environment", max_retries=0)
        assert [m.id for m in client.models.list()] == ["two-layers"]
        first, again, other = (ask(client, "Tell me a story.", "two-layers", max_tokens=20, seed=seed).choices[0].message.content
                               for seed in (7, 7, 8))
        assert first == again and first != other
        streamed = ask(client, "Tell me a story.", "two-layers", max_tokens=20, seed=7, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices) == first
        code, _ = server.stop(signal.SIGINT)
        assert code == 0


def test_base_and_adapter_from_one_set_of_weights(model, train_once):
    adapter = train_once().path / "adapter"
    with RealServer("--model", model, "--adapter", adapter, "--device", "cpu") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        base, tuned = [m.id for m in client.models.list()]
        assert (base, tuned) == ("two-layers", "run")
        answers = [ask(client, "What is a cat?", name, max_tokens=16, temperature=0).choices[0].message.content for name in (base, tuned)]
    done = runs.llmft("chat", "--model", model, "--adapter", adapter, "--device", "cpu", "--temperature", 0, "--max-tokens", 16,
                      input="/both\nWhat is a cat?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"[{base}]\n{answers[0]}\n[{tuned}]\n{answers[1]}\n"


def test_port_in_use(server, model):
    done = runs.llmft("serve", "--model", model, "--port", server.port)
    assert done.returncode == 2 and len(runs.error_lines(done)) == 1
    assert f"--port {server.port}" in done.stderr and "in use" in done.stderr


@pytest.mark.parametrize("args,said", [((), "--model"), (("--model", "/nowhere"), "/nowhere"), (("--port", "99999"), "--port"),
                                       (("--model", runs.TINY, "--host", "no.such.host.invalid"), "--host"),
                                       (("--model", runs.TINY, "--adapter", "/nowhere"), "/nowhere"),
                                       (("--model", runs.TINY, "--context", "9999999"), "context")])
def test_bad_options(args, said):
    done = runs.llmft("serve", *(("--port", "0") if "--port" not in args else ()), *args)
    assert done.returncode == 2 and len(runs.error_lines(done)) == 1, done.stderr
    assert said in runs.error_lines(done)[0]


def test_warns_when_open_to_all(model):
    with RealServer("--model", model, "--host", "0.0.0.0", "--device", "cpu") as server:
        assert server.request("/health", headers={"Host": "any.name"})[0] == 200
        assert any(line.startswith("warning: ") and "--api-key" in line for line in server.said)


# --- llmft chat --------------------------------------------------------------------------------------------------


def test_chat_from_a_pipe(model):
    lines = "Hello.\n/system Be brief.\n/reset\nHello.\n/set temperature 9\n/nonsense\n/base\n/quit\nnot asked\n"
    done = runs.llmft("chat", "--model", model, "--device", "cpu", "--temperature", 0, "--max-tokens", 8, input=lines)
    assert done.returncode == 2  # for /nonsense
    for said in ("system prompt set", "/nonsense", "/set temperature", "no adapter"):
        assert said in done.stderr
    plain = runs.llmft("chat", "--model", model, "--device", "cpu", "--temperature", 0, "--max-tokens", 8, input="Hello.")
    assert plain.stdout and done.stdout.startswith(plain.stdout) and "Be brief" not in done.stdout
    ask = lambda text, temperature=0: runs.llmft("chat", "--model", model, "--device", "cpu", "--temperature", temperature, "--max-tokens", 8, input=text)
    assert ask("Hello.", 1e-39).stdout == plain.stdout  # 1 / temperature is no float
    assert ask("Hello.\\\n").stdout == ask("Hello.\\\n\n").stdout != ""  # goes on, and ends with the file


def test_every_line_from_a_pipe_is_answered(model):
    """Far more than the context holds."""
    ask = lambda *lines: runs.llmft("chat", "--model", model, "--device", "cpu", "--temperature", 0, "--max-tokens", 8, "--context", 64,
                                    input="\n".join(lines))
    done = ask(*["/set repetition_penalty 1.5", *(f"Question {i}?" for i in range(30))])
    assert done.returncode == 0 and "repetition_penalty 1.5 is set" in done.stderr and "no longer fits" not in done.stderr
    assert done.stdout.count("\n") >= 30
    done = ask("word " * 100, "Hello.")
    assert done.returncode == 2 and "no longer fits" in done.stderr and done.stdout.startswith("\n")


def test_chat_in_a_terminal(model):
    import pty
    leader, follower = pty.openpty()
    chat = subprocess.Popen(runs.command("chat", "--model", model, "--device", "cpu", "--max-tokens", 4000, "--seed", 3),
                            stdin=follower, stdout=follower, stderr=follower, env=runs.ENV, start_new_session=True)
    os.close(follower)

    def until(text):
        seen = ""
        while text not in seen:
            seen += os.read(leader, 4096).decode(errors="replace")
        return seen

    until("\n> ")
    os.write(leader, b"Tell me everything.\n")
    until("everything.\r\n")
    os.read(leader, 1)  # it writes
    os.kill(chat.pid, signal.SIGINT)
    said = until("\r\n> ")
    assert "stopped; " in said and "tokens/s" in said
    os.kill(chat.pid, signal.SIGINT)
    assert chat.wait(timeout=10) == 0
    os.close(leader)
