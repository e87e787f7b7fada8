"""torch's defaults, which belong to the caller, set aside while something is built or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """New tensors are on the CPU and in float32, whatever `torch.set_default_device` and `_dtype` have set.

    The dtype is set for the whole process meanwhile, as torch has none for a thread.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
