"""Whether an exported file gives the metric's own outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pe_runtime.exporters.graph import Interface, ScoreGraph
from pe_runtime.metrics import Metric

# Differences that are put down to another order of summation: of the score, relative; of the map, relative
# to its largest value (single positions of the contextual loss divide by a minimum near 0, and only
# their mean is well conditioned).
_TOLERANCES = {"score": 1e-4, "map": 1e-2}

Run = Callable[[Tensor, Tensor], Sequence[np.ndarray]]


def verify(metric: Metric, graph: ScoreGraph, run: Run, *, half: bool = False) -> None:
    """Compare a file with eager on images of another size and batch than it was recorded with.

    Args:
        metric: what was exported.
        graph: what was recorded of it.
        run: gives the file's outputs, in order, for a pair of batches.
        half: the backbone's weights are rounded to float16, in eager too.

    Raises:
        RuntimeError: outputs that differ.
    """
    interface, size = graph.interface, graph.min_size
    # One image alone, too: recorders like to take a batch of 1 for a constant.
    for batch, height, width in ((3, 2 * size + 3, size + 7), (1, size + 1, 2 * size)):
        pair = interface.example(batch, height, width, seed=batch)
        got = dict(zip(interface.outputs, run(*pair), strict=True))
        for name, eager in _expected(metric, interface, pair, half).items():
            error, scale = float(np.abs(got[name] - eager).max()), float(np.abs(eager).max())
            # Written so that NaN, for which every comparison is false, is refused as well.
            if not error <= _TOLERANCES[name] * scale:
                raise RuntimeError(
                    f"{name}: the exported file differs from eager by {error:g} (largest value {scale:g})"
                )
        if graph.passing is not None and not np.array_equal(got["verdict"], got["score"] <= graph.passing):
            raise RuntimeError("verdict: the exported file does not compare its score with the threshold")


def _expected(
    metric: Metric, interface: Interface, pair: tuple[Tensor, Tensor], half: bool
) -> dict[str, np.ndarray]:
    """Score and map as the metric itself computes them, in float32."""
    with torch.inference_mode():
        if half:
            outputs = ScoreGraph(metric, Interface(interface.input, map=True), half=True)(*pair)
        else:
            if interface.input == "uint8":
                pair = (_as_float(pair[0]), _as_float(pair[1]))
            eager = copy.deepcopy(metric).to(device="cpu", dtype=torch.float32)
            eager.kernels = "reference"
            outputs = eager.score_and_map(*pair)
    names = ("score", "map")[: 1 + interface.map]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=False)}


def _as_float(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32) / 255
