"""What the server bears: clients that leave, stall, send rubbish or too much, more of them than it takes, its own end."""
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import signal
import socket
import threading
import time

import pytest

from serving import read_all, scripted

CHAT = "/v1/chat/completions"


def post(body, extra=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode() + data


def question(text, **options):
    return {"messages": [{"role": "user", "content": text}], **options}


def status_of(answer):
    assert answer.startswith(b"HTTP/1.1 "), answer[:80]
    return int(answer.split()[1])


@pytest.fixture(scope="module")
def server():
    with scripted("--step-seconds", "0.005", "--serve.request_seconds", "1", "--serve.idle_seconds", "1", "--serve.body_bytes", "100000") as running:
        yield running
        assert running.process.poll() is None


def still_works(server):
    status, _, text = server.request(CHAT, question("say still here"))
    assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == "still here"


# --- clients that go away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server, stream):
    made = server.metric("llmft_generated_tokens_total")
    leaving = [server.raw(post(question("slow 1900", stream=stream))) for _ in range(20)]  # 8 run, 12 wait
    server.wait_for(lambda: server.metric("llmft_running") == 8 and server.metric("llmft_waiting") == 12)
    for i, connection in enumerate(leaving):
        if i >= 10:  # what came behind the request must not hide that nothing more comes
            connection.sendall(b"\r\n" if i % 4 < 2 else b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if i % 2:  # a reset rather than an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    server.wait_for(lambda: server.metric("llmft_running") == 0 and server.metric("llmft_waiting") == 0, 3)
    assert server.metric("llmft_generated_tokens_total") - made < 20 * 1900 / 2
    still_works(server)


def test_one_connection_serves_many_requests(server):
    connection = server.raw()
    for _ in range(3):
        connection.sendall(post(question("say again")))
        data = b""
        while not data.endswith(b"}}"):
            data += connection.recv(65536)
        assert status_of(data) == 200
    connection.sendall(post(question("say one")) + post(question("say two"), "Connection: close\r\n"))  # both at once
    data = read_all(connection)
    assert 0 < data.index(b'"one"') < data.index(b'"two"')


# --- slow, huge, malformed ---------------------------------------------------------------------------------------


def test_slow_requests_end_in_time(server):
    start = time.monotonic()
    slow = [server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n") for _ in range(50)]
    slow += [server.raw(post(question("hi"))[:-5]) for _ in range(50)]
    stop = threading.Event()

    def drip():
        while not stop.wait(0.2):
            for connection in slow[:50]:
                try:
                    connection.sendall(b"X-a: b\r\n")
                except OSError:
                    pass

    dripping = threading.Thread(target=drip)
    dripping.start()
    still_works(server)  # while they hold on
    answers = [read_all(c) for c in slow[50:]]
    for connection in slow[:50]:
        try:
            answers.append(read_all(connection))
        except ConnectionResetError:  # it went on sending after its answer
            pass
    stop.set()
    dripping.join()
    assert time.monotonic() - start < 8
    assert len(answers) >= 50 and {status_of(a) for a in answers} == {408}
    assert json.loads(answers[0].split(b"\r\n\r\n", 1)[1])["error"]["message"]


def test_idle_connections_end(server):
    connection = server.raw()
    assert read_all(connection) == b""


def test_a_client_that_does_not_read_is_cut_off():
    numbers = 200_000  # more than sockets' buffers hold
    with scripted("--max-context", "1000000", "--step-seconds", "0.0001", "--serve.write_seconds", "0.5") as server:
        stuck = [server.raw() for _ in range(4)]
        for connection in stuck:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(post(question(f"slow {numbers}", stream=True)))
        server.wait_for(lambda: server.metric("llmft_running") == 4)
        still_works(server)  # while they hold on
        server.wait_for(lambda: server.metric("llmft_connections") <= 1 and server.metric("llmft_running") == 0, 60)
        assert server.metric("llmft_generated_tokens_total") < len(stuck) * numbers / 2
        still_works(server)
        for connection in stuck:
            connection.close()


def test_a_client_that_reads_slowly_is_not_cut_off():
    """Far longer than write_seconds, which is how long it may take nothing at all."""
    with scripted("--max-context", "1000000", "--step-seconds", "0.00001", "--serve.write_seconds", "0.5") as server:
        connection = server.raw()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(post(question("slow 80000", stream=True)))
        text, began = b"", time.monotonic()
        while time.monotonic() - began < 3:
            text += connection.recv(4096)
            time.sleep(0.02)
        while not text.endswith(b"0\r\n\r\n"):
            more = connection.recv(1 << 16)
            assert more, "cut off"
            text += more
        assert b"[DONE]" in text and time.monotonic() - began > 2.5
        connection.close()


def test_absolute_form(server):
    answer = read_all(server.raw(b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    assert status_of(answer) == 200


def test_too_large(server):
    big = b"x" * 1_000_000
    assert server.error(CHAT, big)[0] == 413
    answer = read_all(server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"))
    assert status_of(answer) == 413
    chunked = server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(100):
            chunked.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    except OSError:
        pass
    assert status_of(read_all(chunked)) == 413
    assert status_of(read_all(server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Big: " + b"y" * 40000 + b"\r\n\r\n"))) == 431
    still_works(server)


def test_a_body_that_is_announced(server):
    body = json.dumps(question("say announced")).encode()
    connection = server.raw(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode())
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    answer = read_all(connection)
    assert status_of(answer) == 200 and b'"announced"' in answer


def test_rubbish(server):
    rng = random.Random(1)
    texts = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
             b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"GET / HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n",
             b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nabcd", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
             b"GET /" + b"%00" * 50 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"]
    texts += [rng.randbytes(rng.randrange(1, 2000)) for _ in range(200)]
    good = post(question("say x"), "Connection: close\r\n")
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(3):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        texts.append(bytes(bad))
    for text in texts:
        connection = server.raw(text)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = read_all(connection)
        except ConnectionResetError:
            continue
        assert answer == b"" or status_of(answer) in (200, 400, 403, 404, 405, 408, 413, 431), text
        assert b"root:" not in answer
    still_works(server)


# --- more than it takes ------------------------------------------------------------------------------------------


def test_a_full_queue():
    with scripted("--max-sequences", "2", "--queue", "3", "--step-seconds", "0.01") as server:
        held = [server.raw(post(question("slow 1900", stream=True))) for _ in range(5)]
        server.wait_for(lambda: server.metric("llmft_running") + server.metric("llmft_waiting") == 5)
        status, headers, text = server.request(CHAT, question("say hi"))
        assert status == 429 and headers["Retry-After"] == "1" and json.loads(text)["error"]["code"] == "queue_full"
        assert server.error(CHAT, question("hi", n=6))[0] == 400  # more than there will ever be room for
        assert server.request("/health")[0] == 200
        held.pop().close()
        server.wait_for(lambda: server.metric("llmft_running") + server.metric("llmft_waiting") <= 4)
        for connection in held:
            connection.close()
        server.wait_for(lambda: server.metric("llmft_running") == 0)
        still_works(server)


def test_too_many_connections():
    with scripted("--serve.connections", "10") as server:
        held = [server.raw() for _ in range(10)]
        time.sleep(0.2)
        answer = read_all(server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert status_of(answer) == 503 and b'"error"' in answer
        for connection in held:
            connection.close()
        server.wait_for(lambda: server.request("/health")[0] == 200)
        assert server.metric("llmft_connections_refused_total") >= 1
        still_works(server)


def test_200_clients_at_once():
    """The figures go to docs/serve.md. Answers are scripted, so that what is measured is the server."""
    with scripted("--max-sequences", "64", "--queue", "300", "--step-seconds", "0.01") as server:
        words = 50
        barrier = threading.Barrier(200)
        first, total, short = [], [], collections.Counter()

        def client(i):
            barrier.wait()
            start = time.monotonic()
            connection = server.raw(post(question(f"slow {words}", stream=True, temperature=0), "Connection: close\r\n"), timeout=60)
            data = connection.recv(65536)
            while b'"content":"1 "' not in data:
                data += connection.recv(65536)
            begun = time.monotonic() - start
            data += read_all(connection)
            text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in data.decode().splitlines()
                           if line.startswith("data: {"))
            return begun, time.monotonic() - start, text == "".join(f"{n} " for n in range(1, words + 1)) and b"data: [DONE]" in data

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            start = time.monotonic()
            results = list(pool.map(client, range(200)))
            wall = time.monotonic() - start
        assert all(whole for _, _, whole in results)
        first, total = (sorted(r[i] for r in results) for i in (0, 1))
        memory = next(int(line.split()[1]) for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        threads = len(os.listdir(f"/proc/{server.process.pid}/task"))
        print(f"\n200 clients: {wall:.2f} s, {200 * words / wall:.0f} tokens/s; first text {first[100]:.2f} s (median), {first[-1]:.2f} s (last); "
              f"answer {total[100]:.2f} s, {total[-1]:.2f} s; {memory / 1024:.0f} MiB, {threads} threads")
        assert threads < 10 and wall < 30
        still_works(server)
        server.wait_for(lambda: server.metric("llmft_connections") <= 1)


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly(number):
    with scripted("--step-seconds", "0.01") as server:
        streaming = server.raw(post(question("slow 1900", stream=True)))
        whole = server.raw(post(question("slow 1900")))
        idle = server.raw()
        server.wait_for(lambda: server.metric("llmft_running") == 2)
        start = time.monotonic()
        code, _ = server.stop(number)
        assert code == 0 and time.monotonic() - start < 2
        data = read_all(streaming)
        assert data.endswith(b"0\r\n\r\n") and b'"server_ending"' in data and b"[DONE]" not in data
        assert status_of(read_all(whole)) == 503
        assert read_all(idle) == b""


def test_a_second_signal_ends_it_at_once():
    with scripted("--step-seconds", "6") as server:
        waiting = server.raw(post(question("slow 1900")))
        server.wait_for(lambda: server.metric("llmft_running") == 1)
        start = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None  # it waits for the step
        code, _ = server.stop(signal.SIGINT)
        assert code == 130 and time.monotonic() - start < 2
        waiting.close()


def test_an_engine_that_breaks_ends_the_server():
    with scripted() as server:
        held = server.raw(post(question("boom"), "Connection: close\r\n"))
        assert status_of(read_all(held)) == 503
        server.process.wait(timeout=10)
        assert server.process.returncode == 70 and "broke" in server.process.stderr.read()
