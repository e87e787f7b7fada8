"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs and published weights that may lie beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real photographs and weights beside the checkout")
    return SHARED
