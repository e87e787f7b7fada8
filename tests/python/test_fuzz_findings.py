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


@pytest.fixture(scope="module")
def judged(pe_gate, tmp_path_factory):
    """Exit code, most kilobytes of memory, and what is printed, of a file against a small image."""
    folder = tmp_path_factory.mktemp("judged")
    metric = write_metric(folder / "metric.onnx")
    PIL.Image.new("RGB", (9, 7)).save(folder / "reference.png")

    def judge(path):
        done = run_python(
            MEASURED,
            *(pe_gate, folder / "reference.png", path, "--metric", metric, "--threshold", "1"),
            PE_RUNTIME_ONNXRUNTIME=str(native_build.onnxruntime_library()),
        )
        code, kilobytes, text = done.stdout.split(" ", 2)
        return int(code), int(kilobytes), text

    return judge


def test_a_text_that_is_not_there_takes_no_memory(judged):
    code, kilobytes, text = judged(ATTACKS / "long_text.png")
    assert (code, "long_text.png: image file is truncated" in text) == (2, True), text
    assert kilobytes < 500_000


@pytest.mark.parametrize("length", [4, 7, 8, 11, 12])
def test_the_beginning_of_a_webp_is_refused_by_name(judged, tmp_path, length):
    path = tmp_path / "short.webp"
    path.write_bytes(b"RIFF\0\0\0\0WEBP"[:length])
    code, _, text = judged(path)
    assert (code, "short.webp: expected a" in text) == (2, True), text
