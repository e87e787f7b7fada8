"""Whether a file uses the project's own operators."""

from __future__ import annotations

from pe_runtime import ops
from pe_runtime.losses import ContextualLoss
from pe_runtime.metrics import Metric

TORCH_PRECISIONS = ("float32", "float16")


def uses_operators(metric: Metric, fused: bool | None) -> bool:
    """Whether a metric is recorded for torch with its operators.

    Args:
        metric: what is exported.
        fused: True: it must be; False: it must not be; None: if it can be.

    Raises:
        RuntimeError: True, where it cannot be; with the reason.
    """
    if fused is False:
        return False
    obstacle = no_operator(metric) or ops.problem()
    if fused and obstacle:
        raise RuntimeError(f"fused: expected the native operators, but {obstacle}")
    return obstacle is None


def no_operator(metric: Metric) -> str | None:
    """Why no operator computes a metric, on any runtime; None if one does."""
    l1 = isinstance(metric, ContextualLoss) and metric.contextual.distance == "l1"
    return "distance 'l1' has no kernel" if l1 else None
