"""Where the tests of the operators run: on the CPU, on a GPU, or on the CPU with emulated kernels for CUDA.

`PE_RUNTIME_TEST_DEVICE=cuda pytest ...` takes the GPU, `pytest --operators=PATH` the emulation.
"""

from __future__ import annotations

import os

import torch

from pe_runtime import ops

DEVICE = os.environ.get("PE_RUNTIME_TEST_DEVICE", "cpu")
assert DEVICE in ops.DEVICES, f"PE_RUNTIME_TEST_DEVICE: expected one of {ops.DEVICES}, got {DEVICE!r}"
#: Of the kernels that run: those for CUDA keep none.
ROW_SUMS = DEVICE in ops.ROW_SUMS
#: The default settings of the contextual loss, as its backward takes them.
SETTINGS = (0.5, "cosine", "sample", 0.0, "log", 1e-5, 0.0, "highest")

assert ops.problem(DEVICE) is None, ops.problem(DEVICE)


def features(*shape, seed=0, dtype=torch.float64):
    """Features that are the same on every device."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(DEVICE, dtype)


def normal(*shape, seed):
    """Likewise, of the normal distribution."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(DEVICE)
