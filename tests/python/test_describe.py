"""`pe-runtime describe`: what files say of themselves."""

import contextlib
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import WITHOUT_TORCH, metadata, run_python, write_metric

from pe_runtime.cli.describe import describe_file


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


ABOUT = json.dumps(metadata())


def archive(path, **entries):
    """A zip archive as torch writes them: in a folder, stored."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)
    return path


SCRIPT = {"constants.pkl": b"\x80\x02).", "code__metric.py": b"def f(): pass"}
PROGRAM = {"models__model.json": b"{}"}
PACKAGE = {"data__aotinductor__model__a.so": b"\x7fELF"}


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ({**SCRIPT, "extra__pe_runtime": ABOUT}, "TorchScript"),
        ({**PROGRAM, "extra__pe_runtime": ABOUT}, "torch.export"),
        (
            {
                **PACKAGE,
                "data__aotinductor__model__a.wrapper_metadata.json": json.dumps({"pe_runtime": ABOUT}),
                "data__aotinductor__model__a.kernel_metadata.json": json.dumps({"pe_runtime": ABOUT}),
            },
            "AOTInductor",
        ),
    ],
)
def test_describe_files_of_torch(tmp_path, entries, kind):
    """Without torch, whatever the name of the file."""
    path = archive(tmp_path / "metric.bin", **entries)
    done = run_python(WITHOUT_TORCH, "describe", path, "--json")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert (described["kind"], described["format"]) == ("metric", kind)
    assert described["metadata"] == metadata()
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("entries", [SCRIPT, PROGRAM, PACKAGE])
def test_describe_a_file_of_torch_that_is_no_metric(run_command, tmp_path, entries):
    code, out, _ = run_command("describe", archive(tmp_path / "m.pt", **entries), "--json")
    assert code == 0
    assert json.loads(out)["metadata"] is None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a.txt": b""}, "another zip archive"),
        ({**SCRIPT, "extra__pe_runtime": "[]"}, "expected a JSON object"),
        ({**SCRIPT, "extra__pe_runtime": b"\xff"}, "expected a valid file of torch"),
        ({**SCRIPT, "extra__pe_runtime": "[" * 100_000}, "expected JSON"),
        ({**PACKAGE, "data__x_metadata.json": "[" * 100_000}, "expected a valid file of torch"),
        ({**SCRIPT, "extra__pe_runtime": " " * ((1 << 24) + 1)}, "metadata of more than 16777216 bytes"),
        (
            {
                **PACKAGE,
                "data__a_metadata.json": json.dumps({"pe_runtime": ABOUT}),
                "data__b_metadata.json": json.dumps({"pe_runtime": "{}"}),
            },
            "expected one entry 'pe_runtime', got 2",
        ),
    ],
)
def test_describe_refuses_archives(run_command, tmp_path, entries, message):
    code, out, err = run_command("describe", archive(tmp_path / "m.pt2", **entries))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("Error: ")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 7)), max_size=4)
)
def test_damaged_archives_are_described_or_refused(tmp_path, cut, flips):
    """A ValueError, which the command line prints, and no other."""
    path = archive(tmp_path / "m.pt", **SCRIPT, extra__pe_runtime=ABOUT)
    data = bytearray(path.read_bytes())
    for position, bit in flips:
        data[position % len(data)] ^= 1 << bit
    path.write_bytes(data[: len(data) - cut] if cut < len(data) else data)
    with contextlib.suppress(ValueError):
        describe_file(path)
