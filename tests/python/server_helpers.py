"""Folders for servers, MLServer itself on free ports, and photographs to send."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, load, numpy_helper, save
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MLSERVER = Path(sysconfig.get_path("scripts")) / "mlserver"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


class Server:
    """A running `mlserver start`: its HTTP address and its log."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self.log_file = process, port, log
        self.address = f"127.0.0.1:{port}"

    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text()

    def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> tuple[int, str]:
        """Status and text of an answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def infer(self, model: str, request: object) -> tuple[int, dict]:
        """Status and JSON of an answer to a request for scores."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        status, text = self.request("POST", f"/v2/models/{model}/infer", body)
        return status, json.loads(text)

    def is_ready(self) -> bool:
        """Whether all of its models are loaded."""
        try:
            return self.request("GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and give its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def running(folder: Path, port: int) -> Iterator[Server]:
    """`mlserver start` on a folder; it is gone afterwards, whatever happens."""
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [MLSERVER, "start", folder],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + 120
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"mlserver did not start:\n{server.log()}")
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def photographs(height: int = 128, width: int = 192) -> list[np.ndarray]:
    """Crops (height, width, 3) of three photographs, where they lie beside the checkout; else textures."""
    files = sorted((ROOT.parent / "shared" / "images" / "kodak").glob("*.png"))[:3]
    if not files:
        random = np.random.default_rng(0)
        blocks = random.integers(0, 256, (3, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        return list(blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB"))[-height:, -width:])
    return images


def distorted(image: np.ndarray, step: int) -> np.ndarray:
    """An image with its levels made coarser."""
    return image // step * step


def as_input(image: np.ndarray, kind: str) -> np.ndarray:
    """One image (H, W, 3) as a batch of the metric's input type."""
    return image[None] if kind == "uint8" else np.float32(image[None].transpose(0, 3, 1, 2)) / 255


def tensor(name: str, values: np.ndarray, **changes: object) -> dict[str, object]:
    """A tensor of a request, as JSON has it, with some fields as `changes` say."""
    datatype = {"uint8": "UINT8", "float32": "FP32"}[str(values.dtype)]
    described = {
        "name": name,
        "shape": list(values.shape),
        "datatype": datatype,
        "data": values.ravel().tolist(),
    }
    return described | changes


def add_verdict(source: Path, path: Path, threshold: float = 0.5) -> Path:
    """A metric with one more output: whether its score is at most the threshold."""
    model = load(source)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(threshold), "largest"))
    model.graph.node.append(helper.make_node("LessOrEqual", ["score", "largest"], ["verdict"]))
    model.graph.output.append(helper.make_tensor_value_info("verdict", TensorProto.BOOL, ["B"]))
    save(model, path)
    return path


def write_fused(source: Path, path: Path) -> Path:
    """A metric with a node of the project's domain, and the function that stands in for it."""
    model = load(source)
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Identity", ["first"], ["distance"])]
    function = helper.make_function("pe_runtime", "ChannelDistance", ["first"], ["distance"], body, opsets)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("pe_runtime", 1))
    (output,) = (value for value in model.graph.output if value.name == "score")
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "score":
                node.output[index] = "unfused_score"
    model.graph.node.append(
        helper.make_node("ChannelDistance", ["unfused_score"], ["score"], domain="pe_runtime")
    )
    save(model, path)
    return path


def run_example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """One of the programs in examples/python."""
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "python" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
