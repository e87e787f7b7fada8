"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pe_runtime.cli import main

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs and published weights that may lie beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real photographs and weights beside the checkout")
    return SHARED


@pytest.fixture
def run_command(capfd: pytest.CaptureFixture[str]):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return caught.value.code or 0, out, err

    return call


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On small images further threads of torch only wait."""
    # Not at the top: most modules' tests need no torch.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
