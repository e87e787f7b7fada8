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
        ({**SCRIPT, "extra__pe_runtime": b"\xff"}, "expected valid metadata: expected UTF-8"),
        ({**SCRIPT, "extra__pe_runtime": "[" * 100_000}, "expected JSON of at most 32 levels"),
        ({**PACKAGE, "data__x_metadata.json": "[" * 100_000}, "expected a valid file of torch"),
        ({**SCRIPT, "extra__pe_runtime": " " * ((1 << 20) + 1)}, "metadata of more than 1048576 bytes"),
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


LIMIT = 400 << 20
#: `describe` in 400 MB of memory: the libraries that it imports take half of them.
IN_LITTLE_MEMORY = f"""
import resource
from pe_runtime.cli import main
import numpy, onnx, safetensors
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
main()
"""


def bomb(path, method=zipfile.ZIP_DEFLATED, copies=1):
    """Metadata of 64 MiB in 64 KiB, or, bzip2 being better at it, in a few hundred bytes."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in SCRIPT.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)
        for copy in range(copies):
            with file.open(f"{copy}/extra/pe_runtime", "w", force_zip64=True) as entry:
                for _ in range(1 << 6 if copies == 1 else 1):
                    entry.write(b" " * (1 << 20))
    return path


def many_entries(path):
    """A list of entries of more than 4 MiB, none of which holds anything."""
    with zipfile.ZipFile(path, "w") as file:
        for number in range(40_000):
            file.writestr(f"archive/{number:060}", b"")
    return path


def long_header(path):
    """A safetensors file whose header is 90 MB of tensors."""
    tensor = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    header = b"{" + b"".join(tensor % number for number in range(1_600_000))[:-1] + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def many_messages(path):
    """An ONNX file of 60 MB that becomes gigabytes of empty nodes."""
    nodes = b"\x0a\x00" * 30_000_000
    path.write_bytes(b"\x3a\x80\x8e\xce\x1c" + nodes)
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bomb, "metadata of more than 1048576 bytes"),
        (lambda path: bomb(path, zipfile.ZIP_BZIP2), "neither stored nor deflated"),
        (lambda path: bomb(path, copies=20), "more than 8 entries with metadata"),
        (many_entries, "a list of entries of more than 4194304 bytes"),
        (long_header, "a header of more than 4194304 bytes"),
        (many_messages, "more than 1048576 fields"),
    ],
)
def test_what_grows_is_refused_in_little_memory(tmp_path, write, message):
    done = run_python(IN_LITTLE_MEMORY, "describe", write(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")


def test_large_files_are_described_in_little_memory(tmp_path, metric):
    """A metric and a file of torch with 512 MiB of weights."""
    weights = 1 << 29
    plain = metric.read_bytes()
    tensor = b"\x08\x80\x80\x80\x40\x10\x01\x42\x05large\x4a" + varint(weights)
    onnx_file = tmp_path / "large.onnx"
    with onnx_file.open("wb") as file:
        # A training graph is a place for a tensor that leaves the other bytes as they are.
        inner = b"\x2a" + varint(len(tensor) + weights) + tensor
        graph = b"\x0a" + varint(len(inner) + weights) + inner
        file.write(plain + b"\xa2\x01" + varint(len(graph) + weights) + graph)
        file.truncate(file.tell() + weights)
    archive_file = tmp_path / "large.pt"
    with zipfile.ZipFile(archive_file, "w") as file:
        for name, data in {**SCRIPT, "extra__pe_runtime": ABOUT}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)
        with file.open("archive/data/0", "w") as entry:
            for _ in range(weights >> 22):
                entry.write(bytes(1 << 22))
    for path in (onnx_file, archive_file):
        done = run_python(IN_LITTLE_MEMORY, "describe", path, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["metadata"] == metadata()
        assert json.loads(done.stdout)["bytes"] > weights


def varint(value):
    """A number in protobuf's wire format."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


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
