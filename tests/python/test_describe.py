"""`pe-runtime describe`: what files say of themselves."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import metadata, write_metric


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return write_metric(tmp_path_factory.mktemp("metric") / "metric.onnx")


def test_describe_metric(run_command, metric, tmp_path):
    code, out, _ = run_command("describe", metric, "--json")
    described = json.loads(out)
    assert code == 0
    assert described["kind"] == "metric"
    assert described["metadata"] == metadata()
    assert described["inputs"]["reference"] == {"type": "float32", "shape": ["B", 3, "H", "W"]}
    assert described["outputs"]["map"] == {"type": "float32", "shape": ["B", 1, "H", "W"]}
    assert described["opsets"] == {"ai.onnx": 18}
    code, out, _ = run_command("describe", metric)
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["inputs.reference"] == "float32 (B, 3, H, W)"
    assert rows["metadata.metric"] == "feature_distance"
    assert rows["metadata.threshold"] == "none"


def test_describe_an_onnx_file_that_is_no_metric(run_command, metric, tmp_path):
    path = write_metric(tmp_path / "m.onnx", meta=False)
    code, out, _ = run_command("describe", path, "--json")
    assert code == 0
    assert json.loads(out)["metadata"] is None


def test_describe_profile(run_command, tmp_path):
    path = tmp_path / "p.safetensors"
    about = {"format": 1, "tap": "relu2_2", "rows": [1, 2]}
    save_file({"pe": np.zeros((2, 3), np.float32)}, path, metadata={"pe_runtime": json.dumps(about)})
    code, out, _ = run_command("describe", path, "--json")
    described = json.loads(out)
    assert code == 0
    assert described["kind"] == "profile"
    assert described["metadata"] == about
    assert described["tensors"] == {"pe": {"type": "F32", "shape": [2, 3]}}
    _, out, _ = run_command("describe", path)
    assert "tensors.pe" in out
    assert "[1, 2]" in out


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\xff" * 8 + b"{", b"\x10\0\0\0\0\0\0\0{}", b"\x02" + bytes(7) + b"{]"]
)
def test_describe_refuses(run_command, tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    code, out, err = run_command("describe", path)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")


def test_describe_refuses_metadata_that_is_no_object(run_command, tmp_path):
    save_file({"pe": np.zeros(2)}, tmp_path / "p.safetensors", metadata={"pe_runtime": "[]"})
    assert run_command("describe", tmp_path / "p.safetensors")[0] == 2
