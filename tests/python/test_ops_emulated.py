"""The kernels for CUDA where there is no GPU: the tests of the operators, with these kernels as plain C++."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", ["contextual", "channel_distance"])
def test_emulated_kernels_pass_the_tests_of_the_operator(name):
    build = native_build.build("pe_torch_emulated", needs="PE_EMULATED_REASON")
    library = build / "tests" / "cpp" / "libpe_runtime_torch_emulated.so"
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
