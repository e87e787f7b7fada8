"""Whether a file for torch calls the native operators."""

from __future__ import annotations

from pe_runtime import ops
from pe_runtime.losses import ContextualLoss
from pe_runtime.metrics import Metric

TORCH_PRECISIONS = ("float32", "float16")


def uses_operators(metric: Metric, fused: bool | None) -> bool:
    """Whether a metric is recorded with the operators of torch.

    Args:
        metric: what is exported.
        fused: True: it must be; False: it must not be; None: if it can be.

    Raises:
        RuntimeError: True, where it cannot be; with the reason.
    """
    if fused is False:
        return False
    l1 = isinstance(metric, ContextualLoss) and metric.contextual.distance == "l1"
    obstacle = "distance 'l1' has no kernel" if l1 else ops.problem()
    if fused and obstacle:
        raise RuntimeError(f"fused: expected the native operators, but {obstacle}")
    return obstacle is None
