"""What libFuzzer found in pe_gate: files of tests/attacks that cost more than they are."""

import sys
from pathlib import Path

import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build
from gate_helpers import run_python, write_metric

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"

# Its exit code and most memory, in kilobytes.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.stdout, done.stderr)
"""


@pytest.fixture(scope="module")
def pe_gate():
    return native_build.build("pe_gate", needs="PE_GATE_REASON") / "csrc" / "app" / "pe_gate"


def test_a_text_that_is_not_there_takes_no_memory(pe_gate, tmp_path):
    metric = write_metric(tmp_path / "metric.onnx")
    PIL.Image.new("RGB", (9, 7)).save(tmp_path / "reference.png")
    library = str(native_build.onnxruntime_library())
    code, kilobytes, text = run_python(
        MEASURED,
        *(pe_gate, tmp_path / "reference.png", ATTACKS / "long_text.png", "--metric", metric),
        *("--threshold", "1"),
        PE_RUNTIME_ONNXRUNTIME=library,
    ).stdout.split(" ", 2)
    assert code == "2", text
    assert "long_text.png" in text
    assert int(kilobytes) < 500_000
