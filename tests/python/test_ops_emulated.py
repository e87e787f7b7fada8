"""The kernels for CUDA where there is no GPU: the tests of the operators, with these kernels as plain C++."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build

TESTS = Path(__file__).parent


@pytest.fixture
def library():
    build = native_build.build("pe_torch_emulated", needs="PE_EMULATED_REASON")
    return build / "tests" / "cpp" / "libpe_runtime_torch_emulated.so"


@pytest.mark.long
@pytest.mark.parametrize("name", ["contextual", "channel_distance"])
def test_emulated_kernels_pass_the_tests_of_the_operator(library, name):
    pytest_quietly = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_quietly, f"--operators={library}", TESTS / f"test_ops_{name}.py"],
        cwd=TESTS.parents[1],
        env={**os.environ, "PE_RUNTIME_TEST_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert " passed" in done.stdout


def test_precisions_differ_by_what_their_benchmark_prints(library):
    command = [sys.executable, TESTS.parents[1] / "bench" / "matmul_precision.py"]
    done = subprocess.run(
        [*command, "--operators", library, "--channels", "5"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[4:6] for line in done.stdout.splitlines() if line.startswith("│")]
    errors = [[float(cell.split("/")[0]) for cell in row] for row in rows]
    assert len(errors) == 6
    assert all(highest < 1e-5 for highest, _ in errors)
    assert all(high > 10 * highest for highest, high in errors)
