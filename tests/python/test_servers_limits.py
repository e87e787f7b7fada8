"""MLServer under clients that send too much, too slowly, or too often: others are served meanwhile."""

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import write_metric
from server_helpers import MLSERVER, free_ports, running, tensor

from pe_runtime.exporters.mlserver import export_mlserver

if not MLSERVER.exists():
    pytest.skip("needs the extra serve", allow_module_level=True)

#: A pair of 512 x 640 in JSON takes about 5 MB as floating-point numbers written with three digits.
LARGEST = 1 << 23
SECONDS = 2
QUEUE = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with small limits."""
    folder = tmp_path_factory.mktemp("server")
    metric = write_metric(folder / "mse.onnx", has_map=False)
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    limits = {"max_body_bytes": LARGEST, "read_seconds": SECONDS, "queue": QUEUE}
    models = export_mlserver(metric, folder / "models", name="mse", threads=1, **limits, **ports)
    with running(models, ports["http_port"]) as started:
        yield started
        assert started.is_ready()
        assert started.stop() == 0
        assert "Exception in ASGI application" not in started.log()


def request_of(height, width):
    """A pair whose score is 0.25, as the body of a request."""
    images = {"reference": np.zeros, "distorted": np.ones}
    inputs = [tensor(name, make((1, 3, height, width), np.float32) / 2) for name, make in images.items()]
    return json.dumps({"inputs": inputs}).encode()


GOOD = request_of(16, 24)


def score(server, body=GOOD):
    """Status, and the score or the error."""
    status, answer = server.infer("mse", body)
    return status, answer["outputs"][0]["data"][0] if status == 200 else answer["error"]


def head(length, **fields):
    """The head of a request for a score."""
    lines = [f"Content-Length: {length}"] if length is not None else ["Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("POST /v2/models/mse/infer HTTP/1.1\r\nHost: x\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


@contextlib.contextmanager
def connected(server):
    """A connection that has 30 seconds for everything."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        yield connection


def answer_of(connection):
    """All that comes until the server closes the connection, or enough for a status and a sentence."""
    data = b""
    while b"}" not in data:
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data.decode()


def has_ended(connection):
    """Whether nothing comes any more, because the server has closed the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # it had not read all
        return True


def test_a_good_request_is_answered(server):
    assert score(server) == (200, 0.25)
    assert score(server, request_of(160, 192)) == (200, 0.25)


def test_a_body_over_the_limit_is_413_before_it_is_sent(server):
    with connected(server) as connection:
        connection.sendall(head(LARGEST + 1))
        text = answer_of(connection)
    assert text.startswith("HTTP/1.1 413")
    assert f"body: expected at most {LARGEST} bytes, got {LARGEST + 1}" in text
    status, text = score(server, b" " * (LARGEST + 1))
    assert (status, text) == (413, f"body: expected at most {LARGEST} bytes, got {LARGEST + 1}")
    assert score(server, GOOD + b" " * (LARGEST - len(GOOD))) == (200, 0.25)


def test_a_body_in_chunks_over_the_limit_is_413(server):
    with connected(server) as connection:
        connection.sendall(head(None))
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        with contextlib.suppress(OSError):
            for _ in range(12):
                connection.sendall(chunk)
        assert "413" in answer_of(connection)
    assert score(server) == (200, 0.25)


def test_packed_bodies(server):
    """Packed ones are read; one that unpacks to more than the limit is not."""

    def send(body, encoding="gzip"):
        with connected(server) as connection:
            connection.sendall(head(len(body), **{"Content-Encoding": encoding}) + body)
            return answer_of(connection)

    assert '"data":[0.25]' in send(gzip.compress(GOOD))
    bomb = gzip.compress(b" " * (LARGEST * 16))
    assert len(bomb) < LARGEST // 8
    text = send(bomb)
    assert text.startswith("HTTP/1.1 413")
    assert "got more once it is unpacked" in text
    assert send(gzip.compress(GOOD)[:-9]).startswith("HTTP/1.1 422")
    assert send(GOOD).startswith("HTTP/1.1 422")
    assert send(GOOD, "br").startswith("HTTP/1.1 415")


def test_what_is_large_beside_the_values_is_413(server):
    status, text = score(server, json.dumps({"inputs": [], "parameters": {"a": "b" * (1 << 20)}}).encode())
    assert (status, "beside the values" in text) == (413, True)
    status, text = server.request("POST", "/v2/repository/index", b" " * ((1 << 20) + 1))
    assert (status, "at most 1048576 bytes" in text) == (413, True)
    assert server.request("POST", "/v2/repository/index", b"{}")[0] == 200


def test_deep_requests_are_refused(server):
    for levels in (300, 2000, 100_000):
        body = b'{"inputs": [], "parameters": {"a": ' + b"[" * levels + b"]" * levels + b"}}"
        assert score(server, body)[0] == 422
    assert score(server) == (200, 0.25)


def test_half_open_requests_end_and_others_are_answered(server):
    """400 connections with a part of a head, a head without its body, or bytes that drip."""
    starts = [b"", b"POST /v2/models/mse/inf", head(1000), head(1000) + b"{", head(None) + b"1\r\n{\r\n"]
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        connections = [stack.enter_context(connected(server)) for _ in range(400)]
        for number, connection in enumerate(connections):
            connection.sendall(starts[number % len(starts)])
        assert score(server) == (200, 0.25)
        assert server.is_ready()
        answered = []
        for number, connection in enumerate(connections):
            if number % len(starts) == 3:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")  # which does not lengthen its time
            answered.append(answer_of(connection))
            assert has_ended(connection)
        assert time.monotonic() - began < SECONDS + 15
    for number, text in enumerate(answered):
        if number % len(starts) < 2:
            assert text == ""
        else:
            assert text.startswith("HTTP/1.1 408")
            assert f"body: expected within {SECONDS} seconds" in text
    assert score(server) == (200, 0.25)


def test_a_connection_that_has_been_answered_is_timed_again(server):
    with connected(server) as connection:
        connection.sendall(head(len(GOOD)) + GOOD)
        assert "200 OK" in answer_of(connection)
        connection.sendall(b"POST /v2")
        began = time.monotonic()
        assert has_ended(connection)
        assert time.monotonic() - began < SECONDS + 5


def test_more_requests_than_the_queue_holds_are_503(server):
    """Many clients at once: each is answered, by a score or a sentence, and the server by health checks."""
    large = request_of(320, 384)
    clients = 24
    start = threading.Barrier(clients)

    def ask(_):
        start.wait()
        return score(server, large)

    with ThreadPoolExecutor(clients) as pool:
        answers = [pool.submit(ask, number) for number in range(clients)]
        slowest = 0.0
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert server.is_ready()
            slowest = max(slowest, time.monotonic() - began)
    statuses = [answer.result() for answer in answers]
    assert statuses.count((200, 0.25)) >= QUEUE
    refused = [text for status, text in statuses if status == 503]
    assert refused
    assert len(refused) + statuses.count((200, 0.25)) == clients
    assert set(refused) <= {
        f"server: expected at most {QUEUE} requests at once; try again",
        "server: expected fewer large requests at once; try again",
    }
    assert score(server) == (200, 0.25)


def test_the_reader_of_requests_is_started_again(server):
    """If it is killed, as the system does where memory is short, requests go on."""
    assert score(server) == (200, 0.25)
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(server.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    (reader,) = (line.split()[0] for line in found.stdout.splitlines() if "serve_tensors" in line)
    os.kill(int(reader), signal.SIGKILL)
    time.sleep(0.5)  # until it is gone: a request that it had begun would be answered by status 500
    assert score(server) == (200, 0.25)


#: What a body of 45 MB does to a health check, in one process: the event loop's longest pause.
PAUSES = """
import asyncio, json, sys, time
from pe_runtime.serve_limits import TENSORS, _Limits

seen = []

async def app(scope, receive, send):
    rest = (await receive())["body"]
    seen.append((len(rest), [value.shape for value in TENSORS.get()]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

values = [0.123456789012345] * (3 * 512 * 768)
inputs = [{"name": name, "shape": [1, 3, 512, 768], "datatype": "FP32", "data": values}
          for name in ("reference", "distorted")]
body = json.dumps({"inputs": inputs}).encode()
largest = 0.0

async def watch():
    global largest
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        largest = max(largest, time.perf_counter() - began)

async def main():
    limits = _Limits(app, max_body_bytes=1 << 28, read_seconds=60, queue=1)
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        seen.append(message.get("status"))
    scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}
    watcher = asyncio.create_task(watch())
    await limits(scope, receive, send)
    watcher.cancel()

asyncio.run(main())
began = time.perf_counter()
json.loads(body)
print(json.dumps([seen, largest, time.perf_counter() - began]))
"""


def test_reading_a_large_body_leaves_the_event_loop_free():
    done = subprocess.run(
        [sys.executable, "-c", PAUSES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, pause, parsing = json.loads(done.stdout)
    assert seen[0][0] < 1000
    assert seen[0][1] == [[1, 3, 512, 768]] * 2
    assert seen[1] == 200
    assert pause < max(0.1, parsing / 4)


#: Importing the runtime, and an application of somebody else in the same process.
OTHERS = """
from fastapi import encoders
before = dict(encoders.ENCODERS_BY_TYPE)
import pe_runtime.serve
assert encoders.ENCODERS_BY_TYPE == before
assert encoders.jsonable_encoder(b"text") == "text"
from mlserver import Settings
from mlserver.rest import RESTServer
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.registry import MultiModelRegistry
from mlserver.repository import SchemalessModelRepository
registry = MultiModelRegistry()
plane = DataPlane(Settings(), registry)
for changes in ({}, {"model_repository_implementation": "pe_runtime.serve_limits.LimitedRepository",
                     "model_repository_implementation_args":
                         {"max_body_bytes": 1, "read_seconds": 1, "queue": 1}}):
    settings = Settings(metrics_endpoint=None, **changes)
    server = RESTServer(settings, plane, ModelRepositoryHandlers(SchemalessModelRepository("."), registry))
    config = server._get_config()
    print(type(config.app).__name__, isinstance(config.http, str))
"""


def test_other_servers_of_the_process_are_as_they_were():
    done = subprocess.run(
        [sys.executable, "-c", OTHERS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["FastAPI", "True", "_Limits", "False"]
