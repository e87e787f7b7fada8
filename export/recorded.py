"""The fused operators as nodes of a recorded graph, one for each comparison of two feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pe_runtime.exporters.graph import TapMap
from pe_runtime.losses import ContextualLoss
from pe_runtime.metrics import LPIPS, FeatureDistance, Metric
from pe_runtime.reference import ContextualSettings

DOMAIN = "pe_runtime"
OPSET = 1
CONTEXTUAL, CHANNEL_DISTANCE = "ContextualLoss", "ChannelDistance"


def recorder(metric: Metric) -> TapMap | None:
    """What records a metric's comparison of a tap as one node; None for a metric that is no node.

    That is a subclass with a comparison of its own, which is recorded as it computes.
    """
    return _RECORDERS.get(getattr(type(metric), "tap_map", None))


def _contextual(metric: Any, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
    settings: ContextualSettings = metric.contextual
    loss, log_similarity = _contextual_node(distorted, reference, settings)
    if settings.symmetric:
        loss = (loss + _contextual_node(reference, distorted, settings)[0]) / 2
    return loss, 1 - log_similarity.exp()


def _contextual_node(source: Tensor, target: Tensor, settings: ContextualSettings) -> Sequence[Tensor]:
    attributes = {
        "bandwidth": settings.bandwidth,
        "distance": settings.distance,
        "center": settings.center,
        "spatial_weight": settings.spatial_weight,
        "form": settings.form,
        "eps": settings.eps,
        "eps_log": settings.eps_log,
    }
    return _node(CONTEXTUAL, (source, target), attributes, target)


def _difference(metric: Any, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
    distance, difference = _node(CHANNEL_DISTANCE, (reference, distorted), {"form": "squared"}, reference)
    return distance, difference


def _lpips(metric: Any, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
    linear = getattr(metric, f"linear_{tap}", None)
    inputs = (reference, distorted) if linear is None else (reference, distorted, None, None, linear)
    distance, difference = _node(CHANNEL_DISTANCE, inputs, {"form": "unit"}, reference)
    return distance, difference


_RECORDERS: dict[Any, TapMap] = {
    ContextualLoss.tap_map: _contextual,
    FeatureDistance.tap_map: _difference,
    LPIPS.tap_map: _lpips,
}


def _node(
    name: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], positions_of: Tensor
) -> Sequence[Tensor]:
    """A node that gives a number per sample, and one per position of a feature map."""
    batch, _, height, width = positions_of.shape
    return torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}",
        inputs,
        attributes,
        dtypes=(torch.float32, torch.float32),
        shapes=((batch,), (batch, 1, height, width)),
        version=OPSET,
    )
