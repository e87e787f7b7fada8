"""MLServer with exported metrics on the loopback address: scores, errors, load, killed clients, its end."""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import write_metric
from server_helpers import (
    MLSERVER,
    add_verdict,
    as_input,
    distorted,
    free_ports,
    photographs,
    run_example,
    running,
    tensor,
)

from pe_runtime.exporters.mlserver import export_mlserver
from pe_runtime.gate import Judge

if not MLSERVER.exists():
    pytest.skip("needs the extra serve", allow_module_level=True)
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

#: By name, the input type; both in one server.
KINDS = {"mse": "float32", "eq1": "uint8"}
#: Between the scores of the photographs with levels 8 and 64 apart, by both.
THRESHOLD = 0.1


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """A small metric written by hand and an exported one, both with map and verdict."""
    import pe_runtime as pe

    folder = tmp_path_factory.mktemp("metrics")
    mse = write_metric(folder / "plain-mse.onnx", scale=10, min_size=32)
    backbone = pe.Backbone("gabor", taps=["scale3"])
    eq1 = pe.export(
        pe.FeatureDistance(backbone), folder / "plain-eq1.onnx", input="uint8", map=True, verify=False
    )
    return {
        "mse": add_verdict(mse, folder / "mse.onnx", threshold=THRESHOLD),
        "eq1": add_verdict(eq1, folder / "eq1.onnx", threshold=THRESHOLD),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, metrics):
    """A server with both; a folder inside the folder is one more model."""
    folder = tmp_path_factory.mktemp("server") / "models"
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    export_mlserver(metrics["mse"], folder, name="mse", threads=1, max_pixels=1 << 19, **ports)
    export_mlserver(metrics["eq1"], folder / "more", name="eq1", threads=1)
    with running(folder, ports["http_port"]) as started:
        started.grpc_address = f"127.0.0.1:{ports['grpc_port']}"
        yield started
        assert started.is_ready()
        assert started.stop() == 0
        assert "Exception in ASGI application" not in started.log()


def pairs(kind, **size):
    """Each photograph with a coarser copy, as the metric takes them."""
    return [
        {"reference": as_input(image, kind), "distorted": as_input(distorted(image, step), kind)}
        for image, step in zip(photographs(**size), (8, 32, 64), strict=True)
    ]


def ask(address, model, images, outputs=("score",), module=http, **options):
    """Scores by tritonclient, as Triton's users do it."""
    client = module.InferenceServerClient(address)
    json_only = {"binary_data": False} if module is http else {}
    inputs = []
    for name, values in images.items():
        kind = {"uint8": "UINT8", "float32": "FP32"}[str(values.dtype)]
        inputs.append(module.InferInput(name, values.shape, kind))
        inputs[-1].set_data_from_numpy(values, **json_only)
    wanted = [module.InferRequestedOutput(name, **json_only) for name in outputs]
    result = client.infer(model, inputs, outputs=wanted, **options)
    client.close()
    return {name: result.as_numpy(name) for name in outputs}


def request_for(images, **changes):
    return {"inputs": [tensor(name, values) for name, values in images.items()], **changes}


@pytest.mark.parametrize("model", KINDS)
def test_scores_of_photographs_are_those_of_the_gate(server, metrics, model):
    judge = Judge(metrics[model], THRESHOLD, maps=True, threads=1)
    scores = []
    for image, step in zip(photographs(), (1, 8, 64), strict=True):
        pair = {"reference": image, "distorted": distorted(image, step)}
        images = {name: as_input(pixels, KINDS[model]) for name, pixels in pair.items()}
        values = ask(server.address, model, images, ("score", "map", "verdict"))
        judged = judge.score(**pair)
        assert values["score"].shape == (1,)
        assert values["score"][0] == pytest.approx(judged.score, rel=1e-5, abs=1e-9)
        np.testing.assert_allclose(values["map"][0, 0], judged.map, rtol=1e-4, atol=1e-7)
        assert values["verdict"].tolist() == [judged.passed]
        scores.append(judged.score)
    assert scores[0] == 0
    assert scores[1] < THRESHOLD < scores[2]


def test_whole_photographs_and_batches(server, metrics):
    judge = Judge(metrics["eq1"], THRESHOLD, threads=1)
    (pair,) = pairs("uint8", height=512, width=768)[2:]
    score = ask(server.address, "eq1", pair)["score"]
    assert score == pytest.approx([judge.score(*(images[0] for images in pair.values())).score], rel=1e-5)
    several = pairs("uint8")
    batch = {name: np.concatenate([pair[name] for pair in several]) for name in ("reference", "distorted")}
    alone = [ask(server.address, "eq1", pair)["score"][0] for pair in several]
    assert len(set(alone)) == 3
    np.testing.assert_allclose(ask(server.address, "eq1", batch)["score"], alone, rtol=1e-6)


def test_the_same_over_grpc(server):
    import tritonclient.grpc as grpc

    (pair, *_) = pairs("float32")
    values = [
        ask(*where, "mse", pair, ("score", "verdict"), module)
        for where, module in (((server.address,), http), ((server.grpc_address,), grpc))
    ]
    assert values[0]["score"] == values[1]["score"]
    assert values[0]["verdict"] == values[1]["verdict"]
    small = {name: images[..., :4] for name, images in pair.items()}
    with pytest.raises(
        InferenceServerException, match=r"INVALID_ARGUMENT.*expected width and height of at least"
    ):
        ask(server.grpc_address, "mse", small, module=grpc)


def test_server_says_what_it_takes(server):
    with http.InferenceServerClient(server.address) as client:
        assert client.is_model_ready("mse")
        assert client.is_model_ready("mse", "1")
        about = client.get_model_metadata("eq1")
    assert about["platform"] == "onnxruntime_onnx"
    assert [(i["name"], i["datatype"], i["shape"]) for i in about["inputs"]] == [
        (name, "UINT8", [-1, -1, -1, 3]) for name in ("reference", "distorted")
    ]
    assert [output["name"] for output in about["outputs"]] == ["score", "map", "verdict"]


def test_all_outputs_unless_some_are_asked_for(server):
    (pair, *_) = pairs("float32", height=32, width=40)
    status, answer = server.infer("mse", request_for(pair))
    assert (status, [o["name"] for o in answer["outputs"]]) == (200, ["score", "map", "verdict"])
    assert [o["datatype"] for o in answer["outputs"]] == ["FP32", "FP32", "BOOL"]
    status, answer = server.infer("mse", request_for(pair, outputs=[{"name": "verdict"}], id="7"))
    assert (status, answer["id"], answer["model_version"]) == (200, "7", "1")
    assert [(o["name"], o["data"]) for o in answer["outputs"]] == [("verdict", [True])]


def test_values_may_be_nested(server):
    (pair, *_) = pairs("uint8", height=32, width=40)
    flat = server.infer("eq1", request_for(pair))[1]["outputs"]
    nested = {"inputs": [tensor(name, images, data=images.tolist()) for name, images in pair.items()]}
    assert server.infer("eq1", nested)[1]["outputs"] == flat


def bad_requests():
    """What a client may send instead of two images: model, request, part of the error."""
    (good, *_) = pairs("float32", height=32, width=40)
    (good_uint8, *_) = pairs("uint8", height=32, width=40)
    reference, other = (tensor(name, images) for name, images in good.items())
    bytes_reference, bytes_other = (tensor(name, images) for name, images in good_uint8.items())
    values = reference["data"]
    ragged = [[[[0.5] * 40] * 32] * 2 + [[[0.5] * 39] * 32]]

    def with_reference(**changes):
        return "mse", {"inputs": [reference | changes, other]}

    def with_bytes(**changes):
        return "eq1", {"inputs": [bytes_reference | changes, bytes_other]}

    yield "no inputs", "mse", {"inputs": []}, "inputs: expected reference and distorted, got none"
    yield (
        "one input",
        "mse",
        {"inputs": [reference]},
        "inputs: expected reference and distorted, got reference",
    )
    yield "one twice", "mse", {"inputs": [reference, reference]}, "got reference, reference"
    yield "another name", *with_reference(name="image"), "got distorted, image"
    yield (
        "no output",
        "mse",
        {"inputs": [reference, other], "outputs": [{"name": "psnr"}]},
        "outputs: expected",
    )
    yield "float for uint8", "eq1", {"inputs": [reference, other]}, "reference: expected datatype UINT8"
    yield "uint8 for float", *with_reference(datatype="UINT8"), "reference: expected datatype FP32, got UINT8"
    yield "texts", *with_reference(datatype="BYTES", data=["abc"]), "reference: expected datatype FP32"
    yield "no shape", *with_reference(shape=[]), "reference: expected shape (batch, 3, height, width), got ()"
    yield "no batch", *with_reference(shape=[3, 32, 40]), "reference: expected shape"
    yield "channels last", *with_reference(shape=[1, 32, 40, 3]), "reference: expected shape"
    yield "empty", *with_reference(shape=[0, 3, 32, 40], data=[]), "reference: expected shape"
    yield "zero-sized", *with_reference(shape=[1, 3, 0, 40], data=[]), "of at least"
    yield "negative", *with_reference(shape=[1, 3, -32, -40]), "of at least"
    yield "too small", *with_reference(shape=[1, 3, 8, 160]), "of at least"
    yield "enormous", *with_reference(shape=[1, 3, 10**9, 10**9]), "at most 524288 pixels, got 10000000000"
    yield "other size", *with_reference(shape=[1, 3, 40, 32]), "reference and distorted: expected one shape"
    yield "too few", *with_reference(data=values[:-1]), "reference: expected 3840 values"
    yield "too many", *with_reference(data=[*values, 0]), "reference: expected 3840 values"
    yield "ragged", *with_reference(data=ragged), "reference: expected numbers, as many in each row"
    yield "null", *with_reference(data=[None, *values[1:]]), "reference: expected numbers"
    yield "a text", *with_reference(data=["0", *values[1:]]), "reference: expected numbers"
    yield "an object", *with_reference(data={"a": 1}), "reference: expected"
    yield "not a list", *with_reference(data=0.5), "reference: expected 3840 values"
    yield "over 1", *with_reference(data=[255, *values[1:]]), "reference: expected values in [0, 1], got"
    yield "beyond float32", *with_reference(data=[1e300, *values[1:]]), "reference: expected values in [0, 1]"
    yield (
        "over 255",
        *with_bytes(data=[256, *bytes_reference["data"][1:]]),
        "reference: expected values in [0, 255]",
    )
    yield (
        "below 0",
        *with_bytes(data=[-1, *bytes_reference["data"][1:]]),
        "reference: expected values in [0, 255]",
    )
    yield "fractions", *with_bytes(data=[0.5, *bytes_reference["data"][1:]]), "reference: expected integers"


@pytest.mark.parametrize(
    ("model", "request_body", "message"),
    [pytest.param(*case[1:], id=case[0].replace(" ", "-")) for case in bad_requests()],
)
def test_bad_requests_name_the_argument(server, model, request_body, message):
    status, answer = server.infer(model, request_body)
    assert (status, message in answer["error"]) == (400, True), answer


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("mse", b"", 422),
        ("mse", b"{", 422),
        ("mse", b"[" * 500, 422),
        ("mse", b'{"inputs": [NaN]}', 422),
        ("mse", b'{"inputs": 3}', 422),
        ("mse", b'{"inputs": [{"name": "reference"}]}', 422),
        (
            "mse",
            json.dumps(
                {"inputs": [tensor("reference", np.zeros((1, 3, 4, 4), "u1"), datatype="RGB")]}
            ).encode(),
            422,
        ),
        ("nobody", b'{"inputs": []}', 404),
    ],
)
def test_what_is_no_request_is_refused_by_the_protocol(server, model, body, expected):
    assert server.infer(model, body)[0] == expected


def test_tensors_as_bytes_over_http_are_refused_by_the_protocol(server):
    pixels = np.full((1, 32, 32, 3), 255, np.uint8)
    inputs = [http.InferInput(name, pixels.shape, "UINT8") for name in ("reference", "distorted")]
    for tensor_input in inputs:
        tensor_input.set_data_from_numpy(pixels, binary_data=True)
    with (
        http.InferenceServerClient(server.address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("eq1", inputs)
    assert caught.value.status() == "422"
    status, text = server.request(
        "POST", "/v2/models/eq1/infer", pixels.tobytes(), "application/octet-stream"
    )
    assert (status, "3072 bytes" in text) == (422, True)


#: Sends a request, all of it or half, says so, and then waits to be killed.
HASTY_CLIENT = """
import socket, sys, time
host, port, path, part = sys.argv[1:]
body = sys.stdin.buffer.read()
connection = socket.create_connection((host, int(port)))
head = f"POST {path} HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
connection.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode())
connection.sendall(body[: int(len(body) * float(part))])
print("sent", flush=True)
time.sleep(60)
"""


def kill_a_client(server, model, images, part):
    """A client process is killed after it has sent a part of a request."""
    path = f"/v2/models/{model}/infer"
    client = subprocess.Popen(
        [sys.executable, "-c", HASTY_CLIENT, "127.0.0.1", str(server.port), path, str(part)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with client:
        client.stdin.write(json.dumps(request_for(images)).encode())
        client.stdin.close()
        assert client.stdout.readline() == b"sent\n"
        client.kill()


def reset_a_connection(server, model, images):
    """A connection is reset, without a goodbye, in the middle of a request."""
    body = json.dumps(request_for(images)).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(head.encode() + body[: len(body) // 2])


def test_eight_clients_at_once_bad_requests_and_killed_clients(server, metrics):
    expected = {}
    for model, kind in KINDS.items():
        judge = Judge(metrics[model], THRESHOLD, threads=1)
        expected[model] = [
            judge.score(image, distorted(image, step)).score
            for image, step in zip(photographs(), (8, 32, 64), strict=True)
        ]
        assert len(set(expected[model])) == 3, kind
    mistakes = list(bad_requests())
    start = threading.Barrier(10)

    def work(number):
        start.wait()
        for turn in range(4):
            model = list(KINDS)[(number + turn) % 2]
            index = (number + turn) % 3
            score = ask(server.address, model, pairs(KINDS[model])[index])["score"]
            assert score == pytest.approx([expected[model][index]], rel=1e-5)
            _, wrong, body, message = mistakes[(number * 4 + turn) % len(mistakes)]
            status, answer = server.infer(wrong, body)
            assert (status, message in answer["error"]) == (400, True)
        return True

    def disturb(part):
        start.wait()
        (images, *_) = pairs("float32", height=384, width=512)
        kill_a_client(server, "mse", images, part)
        reset_a_connection(server, "mse", images)
        return True

    with ThreadPoolExecutor(10) as pool:
        tasks = [pool.submit(work, number) for number in range(8)]
        tasks += [pool.submit(disturb, part) for part in (1, 0.5)]
        assert all(task.result() for task in tasks)
    assert server.process.poll() is None
    (pair, *_) = pairs("float32")
    assert ask(server.address, "mse", pair)["score"] == pytest.approx([expected["mse"][0]], rel=1e-5)


def test_client_example_asks_the_server(server, metrics, tmp_path):
    image = photographs()[1]
    Image.fromarray(image).save(tmp_path / "reference.png")
    Image.fromarray(distorted(image, 64)).save(tmp_path / "candidate.png")
    files = (tmp_path / "reference.png", tmp_path / "candidate.png")
    for model, path in metrics.items():
        done = run_example("ask_server.py", server.address, model, *files, "--map", tmp_path / "map.png")
        assert done.returncode == 1, done.stderr
        judged = Judge(path, THRESHOLD, threads=1).score(*files)
        assert done.stdout.split() == ["score", f"{judged.score:.6g}", "fail"]
        with Image.open(tmp_path / "map.png") as saved:
            assert (saved.mode, saved.getextrema()[1]) == ("L", 255)
        (tmp_path / "map.png").unlink()
    assert run_example("ask_server.py", server.address, "mse", files[0], files[0]).stdout == "score 0 pass\n"
    done = run_example("ask_server.py", server.address, "psnr", *files)
    assert (done.returncode, done.stdout) == (2, "")
    assert "psnr not found" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_stops_while_it_is_asked(tmp_path, metrics, number):
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    folder = export_mlserver(metrics["mse"], tmp_path / "server", name="mse", threads=1, **ports)
    (pair, *_) = pairs("float32")
    with running(folder, ports["http_port"]) as server, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.infer, "mse", request_for(pair)) for _ in range(2)]
        assert asked[0].result()[0] == 200
        assert server.stop(number) == 0
        # The second was answered, or refused because the server had stopped listening.
        assert isinstance(asked[1].exception(), OSError) or asked[1].result()[0] == 200
    assert "Exception in ASGI application" not in server.log()
    with socket.create_server(("127.0.0.1", ports["http_port"])):
        pass


def test_a_folder_without_its_model_does_not_start(tmp_path, metrics):
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    folder = export_mlserver(metrics["mse"], tmp_path / "server", **ports)
    (folder / "model.onnx").write_bytes(b"not a model")
    done = subprocess.run(
        [MLSERVER, "start", folder], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert "model.onnx: expected a valid ONNX file" in done.stdout + done.stderr
