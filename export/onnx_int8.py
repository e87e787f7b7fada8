"""Convolutions in 8 bits, by ONNX Runtime's own quantiser, and what that does to the scores."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pe_runtime.exporters.calibration import Calibration, calibration_pairs
from pe_runtime.exporters.graph import INPUT_NAMES, ScoreGraph

# Those that backbones have after their first convolution and that work on 8 bits.
_OPERATORS = ("Conv", "Relu", "MaxPool", "Concat")

Feeds = list[dict[str, np.ndarray]]


def quantised(
    model: onnx.ModelProto, graph: ScoreGraph, calibration: Calibration
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantise the backbone of a recorded graph (weights per channel, activations per tensor; QDQ).

    Weights get 7 of the 8 bits: processors before VNNI would saturate with more, and scores depend on the
    processor. Ranges are the least and largest values that occur in the photographs.

    Args:
        model: float32, with fused operators and their functions.
        graph: what it was recorded from.
        calibration: see `calibration_pairs`.

    Returns:
        The quantised model, and how far its scores are from those of float32: "pairs", "median_drift" and
        "largest_drift", relative to the float32 score of each pair.

    Raises:
        ValueError: see `calibration_pairs`; a graph without convolutions; scores that are not finite.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    pairs = calibration_pairs(calibration, graph.min_size)
    feeds = [_feed(pair, graph.interface.input) for pair in pairs]
    # The quantiser advises to have its own pre-processing done, which has nothing left to do here.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder, _quiet():
        exact_path, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, exact_path)
        quantize_static(
            exact_path,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=_backbone_nodes(model),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = onnx.load(path)
    exact, rounded = _scores(model, feeds), _scores(result, feeds)
    drift = np.abs(rounded - exact) / np.maximum(np.abs(exact), np.finfo(np.float32).tiny)
    if not np.isfinite(drift).all():
        raise ValueError("calibration: expected finite scores of all pairs, got some that are not")
    about = {
        "pairs": len(pairs),
        "median_drift": float(np.median(drift)),
        "largest_drift": float(drift.max()),
    }
    return result, about


class _Reader:
    """What the quantiser asks for the next pair."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _feed(pair: tuple[np.ndarray, np.ndarray], input: str) -> dict[str, np.ndarray]:
    if input == "float32":
        images = [pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255 for pixels in pair]
    else:
        images = [pixels[None] for pixels in pair]
    return dict(zip(INPUT_NAMES, images, strict=True))


def _backbone_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes to quantise: convolutions, and what works on their results in 8 bits."""
    quantised_values: set[str] = set()
    names = []
    for node in model.graph.node:
        after = node.op_type == "Conv" or all(name in quantised_values for name in node.input)
        if node.op_type in _OPERATORS and after:
            quantised_values.update(node.output)
            names.append(node.name)
    if not names:
        raise ValueError("precision: expected a backbone with convolutions for 'int8', got one without")
    return names


def _scores(model: onnx.ModelProto, feeds: Feeds) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["score"], feed)[0] for feed in feeds]).astype(np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs its progress to the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
