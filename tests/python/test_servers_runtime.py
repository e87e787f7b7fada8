"""The runtime class of MLServer by itself: settings, errors, and that it leaves the event loop free."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import write_metric
from server_helpers import MLSERVER, add_verdict, tensor

pytestmark = pytest.mark.skipif(not MLSERVER.exists(), reason="needs the extra serve, for Python up to 3.12")

# In a process of its own: the messages of mlserver and tritonclient.grpc have the same names, and do not
# both fit into one.
RUNTIME = """
import asyncio, json, sys, threading
from mlserver import ModelSettings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest
from pe_runtime.serve import MetricRuntime

metric, request = sys.argv[1], InferenceRequest(**json.loads(sys.stdin.read()))

def runtime_for(max_batch_size=0, **extra):
    parameters = ModelParameters(uri=metric, version="1", extra=extra)
    return MetricRuntime(ModelSettings(
        name="mse", implementation=MetricRuntime, parameters=parameters, max_batch_size=max_batch_size
    ))

async def event_loop_is_free():
    runtime = runtime_for(threads=1)
    assert await runtime.load()
    score, let_go = runtime._scorer.score, threading.Event()
    runtime._scorer.score = lambda *args, **options: let_go.wait(30) and score(*args, **options)
    answer = asyncio.create_task(runtime.predict(request))
    await asyncio.sleep(0.1)
    # Only a loop that is free gets here before the score is there.
    waiting = not answer.done()
    let_go.set()
    outputs = [output.name for output in (await answer).outputs]
    assert await runtime.unload()
    return waiting, outputs

async def metric_fails():
    def fail(*args, **options):
        raise RuntimeError("metric: no memory")
    runtime = runtime_for(threads=1)
    await runtime.load()
    runtime._scorer.score = fail
    try:
        await runtime.predict(request)
    except Exception as error:
        return type(error).__name__, str(error), error.status_code

async def settings():
    errors = []
    for extra in (
        {"thread": 1}, {"threads": "2"}, {"concurrency": True}, {"provider": 0}, {"concurrency": 0},
        {"max_batch_size": 4},
    ):
        try:
            await runtime_for(**extra).load()
        except ValueError as error:
            errors.append(str(error))
    return errors

print(json.dumps([asyncio.run(part()) for part in (event_loop_is_free, metric_fails, settings)]))
"""


def test_runtime_class(tmp_path):
    metric = add_verdict(write_metric(tmp_path / "plain.onnx"), tmp_path / "metric.onnx")
    images = np.random.default_rng(0).random((2, 1, 3, 8, 9), dtype=np.float32)
    inputs = [tensor(name, pixels) for name, pixels in zip(("reference", "distorted"), images, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", RUNTIME, metric],
        input=json.dumps({"inputs": inputs}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    free, failed, settings = json.loads(done.stdout)
    assert free == [True, ["score", "map", "verdict"]]
    assert failed == ["MLServerError", "metric: no memory", 500]
    assert settings == [
        "parameters.extra: expected among threads, concurrency, max_pixels, provider, got 'thread'",
        "threads: expected an integer, got '2'",
        "concurrency: expected an integer, got True",
        "provider: expected a text, got 0",
        "max_workers must be greater than 0",
        "max_batch_size: expected 0, because images of unlike sizes would be mixed up",
    ]
