"""Gradio's load_chat over llmft serve, unchanged. Gradio is large and not among what 'make deps' installs:
.venv/bin/pip install -r tests/requirements-gradio.txt."""
import pytest

from serving import scripted

gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r tests/requirements-gradio.txt")


def test_load_chat():
    from gradio_client import Client
    with scripted("--step-seconds", "0.005") as server:
        page = gradio.load_chat(server.url + "/v1/", model="tiny-tuned", token="none")
        page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        try:
            client = Client(page.local_url, verbose=False)
            job = client.submit({"text": "good morning", "files": []}, api_name="/open_api_stream")
            assert job.result(timeout=60) == "adapted heard: good morning"
            grown = job.outputs()
            assert len(grown) > 2 and all(str(b).startswith(str(a)) for a, b in zip(grown, grown[1:]))  # it was streamed
            assert server.metric("llmft_running") == 0
        finally:
            page.close()
