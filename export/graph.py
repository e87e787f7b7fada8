"""What every exported file has besides its operators: inputs, outputs and metadata."""

from __future__ import annotations

import copy
import json
import math
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from pe_runtime import __version__
from pe_runtime.checks import check_choice
from pe_runtime.metrics import Metric

METADATA_KEY = "pe_runtime"
INPUTS = ("float32", "uint8")
_FORMAT = 1


class ScoreGraph(nn.Module):
    """A metric with the inputs and outputs of an exported file.

    Args:
        metric: copied, to the CPU and to float32.
        input: "float32": images (B, 3, H, W) in [0, 1]; "uint8": (B, H, W, 3), what a decoder gives.
        map: also give the map, (B, 1, h, w), after the score, (B,).

    Raises:
        TypeError: not a metric.
        ValueError: another kind of input.
    """

    def __init__(self, metric: Metric, *, input: str, map: bool) -> None:
        super().__init__()
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metric: expected a FeatureDistance, LPIPS or ContextualLoss, got {type(metric).__name__}"
            )
        check_choice(input, "input", INPUTS)
        self.metric = copy.deepcopy(metric).to(device="cpu", dtype=torch.float32)
        # Operators of torch's own would end up in the graph.
        self.metric.kernels = "reference"
        self.input = input
        self.map = map

    def forward(self, reference: Tensor, distorted: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Score, and map if asked for, of each pair. Values are not checked: a graph cannot raise."""
        if self.input == "uint8":
            reference, distorted = (
                images.permute(0, 3, 1, 2).to(torch.float32) / 255 for images in (reference, distorted)
            )
        # In one batch: half the nodes, and the weights are read once.
        features = self.metric.backbone(torch.cat([reference, distorted]))
        batch = reference.shape[0]
        score, difference = self.metric.compare(
            {tap: both[:batch] for tap, both in features.items()},
            {tap: both[batch:] for tap, both in features.items()},
        )
        return (score, difference) if self.map else score

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A seeded pair of unlike images in the graph's input format."""
        generator = torch.Generator().manual_seed(seed)
        if self.input == "uint8":
            shape = (batch, height, width, 3)
            pair = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(2)]
        else:
            pair = [torch.rand((batch, 3, height, width), generator=generator) for _ in range(2)]
        return pair[0], pair[1]


def describe(graph: ScoreGraph, threshold: float | None) -> str:
    """The metadata of an exported file: one JSON object, readable without running the graph.

    Args:
        graph: what is exported.
        threshold: the largest score that passes, >= 0; None: not set.

    Raises:
        ValueError: a negative or not finite threshold.
    """
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: expected a finite number >= 0, got {threshold}")
    metric = graph.metric
    description: dict[str, Any] = {
        "format": _FORMAT,
        "pe_runtime": __version__,
        "metric": metric.kind,
        "input": graph.input,
        "map": graph.map,
        "min_size": metric.backbone.min_size,
        "threshold": threshold,
        "backbone": metric.backbone.describe(),
        "settings": metric.settings(),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "onnx")},
    }
    return json.dumps(description, sort_keys=True)
