"""What every exported file has besides its operators: inputs, outputs and metadata."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pe_runtime import __version__
from pe_runtime.checks import check_choice
from pe_runtime.exporters.fold import folded
from pe_runtime.losses import ContextualLoss
from pe_runtime.metrics import Metric

METADATA_KEY = "pe_runtime"
INPUTS = ("float32", "uint8")
PRECISIONS = ("float32", "float16", "int8")
INPUT_NAMES = ("reference", "distorted")
_FORMAT = 1

TapMap = Callable[[Metric, str, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Interface:
    """What goes into an exported file and what comes out.

    Args:
        input: "float32": images (B, 3, H, W) in [0, 1]; "uint8": (B, H, W, 3), what a decoder gives.
        map: also give the map, (B, 1, h, w).
        verdict: also give whether the score passes, (B,) bool.
        threshold: the largest score that passes, >= 0; None: not set.

    Raises:
        ValueError: another kind of input; a threshold that is negative or not finite; a verdict without a
            threshold.
    """

    input: str = "float32"
    map: bool = False
    verdict: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_choice(self.input, "input", INPUTS)
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold: expected a finite number >= 0, got {self.threshold}")
        if self.verdict and self.threshold is None:
            raise ValueError("threshold: expected a number for the verdict, got none")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return ("score", *["map"] * self.map, *["verdict"] * self.verdict)

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A seeded pair of unlike images in the input format."""
        options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
        if self.input == "uint8":
            shape = (batch, height, width, 3)
            pair = [torch.randint(0, 256, shape, dtype=torch.uint8, **options) for _ in range(2)]
        else:
            shape = (batch, 3, height, width)
            pair = [torch.rand(shape, dtype=torch.float32, **options) for _ in range(2)]
        return pair[0], pair[1]

    def dynamic_sizes(self, size: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        """For both inputs, dimension number to `size` where the size is free: batch, height and width."""
        free = (0, 1, 2) if self.input == "uint8" else (0, 2, 3)
        return dict.fromkeys(free, size), dict.fromkeys(free, size)


class ScoreGraph(nn.Module):
    """A metric with the inputs and outputs of an exported file, to be recorded; its parts are copies.

    Args:
        metric: what is exported; computed on the CPU in float32.
        interface: inputs and outputs.
        kernels: "reference", the definitions, or "native", the operators of torch.
        tap_map: records a tap's score and map, in place of the metric's own way.
        half: keep the weights of the backbone's convolutions in float16.
        together: take both images through the backbone in one batch, whatever is faster.

    Attributes:
        interface: as given.
        min_size: least height and width of an image.
        about: what is exported, for the metadata.

    Raises:
        TypeError: not a metric.
    """

    def __init__(
        self,
        metric: Metric,
        interface: Interface,
        *,
        kernels: str = "reference",
        tap_map: TapMap | None = None,
        half: bool = False,
        together: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metric: expected a FeatureDistance, LPIPS or ContextualLoss, got {type(metric).__name__}"
            )
        self.interface = interface
        self.min_size = metric.backbone.min_size
        self.about: dict[str, Any] = {
            "metric": metric.kind,
            "min_size": metric.backbone.min_size,
            "backbone": metric.backbone.describe(),
            "settings": metric.settings(),
        }
        self.features = folded(metric.backbone, 255 if interface.input == "uint8" else 1, half)
        # One after the other is up to a tenth faster, and half the memory: nothing is put together and taken
        # apart. But the gabor backbone is many small nodes, of which one batch needs half.
        self.together = together or metric.backbone.name == "gabor"
        self.metric = copy.deepcopy(metric).to(device="cpu", dtype=torch.float32)
        del self.metric.backbone
        self.metric.kernels = kernels
        if isinstance(self.metric, ContextualLoss):
            self.metric.contextual = replace(self.metric.contextual, matmul_precision="highest")
        if tap_map is not None:
            self.metric.tap_map = _bound(tap_map, self.metric)  # type: ignore[method-assign, assignment]
        self.passing = None if not interface.verdict else largest_passing(interface.threshold or 0.0)
        self.eval()

    def forward(self, reference: Tensor, distorted: Tensor) -> tuple[Tensor, ...]:
        """The outputs that the interface names. Values are not checked: a graph cannot raise."""
        score, difference = self.metric.compare(*self._features(reference, distorted))
        outputs = (score, difference) if self.interface.map else (score,)
        return outputs if self.passing is None else (*outputs, score <= self.passing)

    def _features(self, reference: Tensor, distorted: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self.together:
            return self.features(self._planes(reference)), self.features(self._planes(distorted))
        both = self.features(self._planes(torch.cat([reference, distorted])))
        batch = reference.shape[0]
        first = {tap: features[:batch] for tap, features in both.items()}
        return first, {tap: features[batch:] for tap, features in both.items()}

    def _planes(self, images: Tensor) -> Tensor:
        if self.interface.input == "float32":
            return images
        # As float images lie in memory: of another layout recorders would have conditions on the sizes.
        return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)

    def example(self) -> tuple[Tensor, Tensor]:
        """Images to record with: of a batch and sizes that differ from each other and from 1."""
        return self.interface.example(2, 2 * self.min_size, 3 * self.min_size)


def largest_passing(threshold: float) -> float:
    """The float32 that float32 scores are compared with, for the same verdicts as the gate's.

    The gate compares the shortest decimal that stands for a score with the threshold, as one reads them: a
    score of float32(0.1), which is above 0.1, passes 0.1.
    """
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    if float(str(nearest)) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def describe(graph: ScoreGraph, *, fused: bool, precision: str = "float32", **more: Any) -> str:
    """The metadata of an exported file: one JSON object, readable without running the graph.

    Args:
        graph: what is exported.
        fused: whether the file uses the project's own operators.
        precision: "float32", or what the backbone's weights are stored in: "float16" or "int8".
        more: further entries, JSON-able.
    """
    interface = graph.interface
    description: dict[str, Any] = {
        "format": _FORMAT,
        "pe_runtime": __version__,
        **graph.about,
        "input": interface.input,
        "map": interface.map,
        "verdict": interface.verdict,
        "threshold": interface.threshold,
        "fused": fused,
        "precision": precision,
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "onnx")},
        **more,
    }
    return json.dumps(description, sort_keys=True)


def _bound(tap_map: TapMap, metric: Metric) -> Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]:
    def call(tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        return tap_map(metric, tap, reference, distorted)

    return call
