"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pe_runtime.cli import main

SHARED = Path(__file__).resolve().parents[3] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--operators",
        type=Path,
        metavar="PATH",
        help="test this library of operators in place of the package's: that with emulated kernels for CUDA",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu_kernels(reason): of the kernels for the CPU alone")
    config.addinivalue_line("markers", "long: takes a minute or more on one core")
    path = config.getoption("--operators")
    if path is not None:
        from pe_runtime import ops

        ops._LIBRARY, ops.ROW_SUMS = path.resolve(), ()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # First, so that no worker is left with one at the end while the others have nothing to do.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    device = os.environ.get("PE_RUNTIME_TEST_DEVICE", "cpu")
    if config.getoption("--operators") is None and device == "cpu":
        return
    for item in items:
        for mark in item.iter_markers("cpu_kernels"):
            item.add_marker(pytest.mark.skip(reason=f"of the kernels for the CPU: {mark.args[0]}"))


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
