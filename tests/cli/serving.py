"""What the tests of the server share: a server on a free port, with a scripted engine or a real model, and raw HTTP."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

import runs

SCRIPTED = os.environ.get("LLMFT_SCRIPTED_SERVER", str(pathlib.Path(runs.BINARY).resolve().parent / "tests/scripted_server"))


class Server:
    """A process that serves; `with` ends it."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen([str(c) for c in command], env=dict(runs.ENV, **(env or {})), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.port = self.read_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def read_port(self):
        line = self.process.stdout.readline()
        assert line, f"no server: {self.process.stderr.read()}"
        return int(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)

    def stop(self, number):
        """Its exit code and stderr."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr

    def request(self, path, body=None, headers=None, method=None, timeout=30):
        """(status, headers, text)"""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def chat(self, question, **options):
        return {"messages": [{"role": "user", "content": question}], **options}

    def error(self, path, body, **options):
        """(status, OpenAI's error object)"""
        status, _, text = self.request(path, body, **options)
        assert status >= 400, text
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"], text
        return status, error

    def raw(self, data=b"", timeout=10):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(data)
        return connection

    def metric(self, name):
        for line in self.request("/metrics")[2].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")

    def wait_for(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)


class RealServer(Server):
    """llmft serve, which names its port on stderr."""

    def __init__(self, *args, env=None):
        self.said = []
        super().__init__([runs.BINARY, "serve", "--port", "0", *args], env)

    def read_port(self):
        for line in self.process.stderr:
            self.said.append(line)
            if "serve: http://" in line:
                return int(line.split("serve: http://")[1].split()[0].rsplit(":", 1)[1])
        raise AssertionError("no server: " + "".join(self.said))


def scripted(*options, env=None):
    if not os.path.exists(SCRIPTED):
        pytest.skip(f"no {SCRIPTED}: 'make test' builds it")
    return Server([SCRIPTED, runs.TINY, "--port", "0", *options], env)


def read_all(connection):
    """Until the server closes."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data
