"""Metrics and losses as ONNX graphs of standard operators, for any ONNX Runtime.

Inputs `reference` and `distorted`, outputs `score` (B,) and optionally `map` (B, 1, h, w); batch, height
and width are dynamic, preprocessing is inside, and the metadata entry "pe_runtime" describes the file.

As a script, `python export/onnx.py` is `pe-runtime export`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Python put this folder first on the path, where this file would hide the onnx package.
    sys.path.pop(0)
    from pe_runtime.cli import main

    main(["export", *sys.argv[1:]])

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as op
from torch.export import Dim

from pe_runtime.atomic import atomic_path
from pe_runtime.exporters.graph import METADATA_KEY, ScoreGraph, describe
from pe_runtime.metrics import Metric

OPSETS = (18, 19, 20, 21)
# Differences between ONNX Runtime and eager that are put down to another order of summation: of the
# score, relative; of the map, relative to its largest value (single positions of the contextual loss
# divide by a minimum near 0, and only their mean is well conditioned).
_TOLERANCES = {"score": 1e-4, "map": 1e-2}


def export_onnx(
    metric: Metric,
    path: str | os.PathLike[str],
    *,
    input: str = "float32",
    map: bool = False,
    threshold: float | None = None,
    opset: int = 18,
    verify: bool = True,
) -> Path:
    """Write a metric as an ONNX graph of standard operators.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`. It is not changed.
        path: ends in .onnx. Written whole or not at all.
        input: "float32": images (B, 3, H, W) in [0, 1]; "uint8": (B, H, W, 3).
        map: give the graph a second output `map`, (B, 1, h, w).
        threshold: the largest score that passes, stored in the metadata for the gate.
        opset: version of the standard operators, 18 to 21; 18 reaches furthest.
        verify: score a pair of images of another size and batch than the graph was recorded with in
            ONNX Runtime, and compare with eager. Needs onnxruntime (or onnxruntime-gpu).

    Returns:
        The path.

    Raises:
        TypeError: not a metric.
        ValueError: an option out of its range.
        ImportError: verify without ONNX Runtime.
        RuntimeError: the graph does not reproduce the eager score; nothing is written.
        OSError: the file cannot be written.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset: expected one of {', '.join(str(o) for o in OPSETS)}, got {opset}")
    if verify and importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            "verify: expected onnxruntime to be installed; install pe_runtime[cpu] or verify=False"
        )
    graph = ScoreGraph(metric, input=input, map=map).eval()
    description = describe(graph, threshold)
    model = _to_model(graph, opset)
    onnx.helper.set_model_props(model, {METADATA_KEY: description})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
        if verify:
            _verify(graph, temporary)
    return Path(path)


def _to_model(graph: ScoreGraph, opset: int) -> onnx.ModelProto:
    size = 2 * graph.metric.backbone.min_size
    channels_last = graph.input == "uint8"
    dynamic = {
        0: Dim.DYNAMIC,
        (1 if channels_last else 2): Dim.DYNAMIC,
        (2 if channels_last else 3): Dim.DYNAMIC,
    }
    with warnings.catch_warnings():
        # The exporter warns of what it does itself: deprecated calls inside torch, names it replaces.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            graph.example(2, size, size + graph.metric.backbone.min_size),
            dynamo=True,
            verbose=False,
            input_names=["reference", "distorted"],
            output_names=["score", "map"][: 1 + graph.map],
            dynamic_shapes=(dynamic, dynamic),
            opset_version=opset,
            custom_translation_table={torch.ops.aten._cdist_forward.default: _pairwise_distances},
        )
    assert program is not None  # it is only for the exporter that dynamo replaced
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    _name_sizes(model, graph.input)
    return model


def _pairwise_distances(first: Any, second: Any, p: float, compute_mode: int | None = None) -> Any:
    """torch.cdist of (B, N, C) and (B, M, C) in standard operators, for which torch has no translation."""
    difference = op.Sub(op.Unsqueeze(first, [2]), op.Unsqueeze(second, [1]))
    if p == 1:
        return op.ReduceL1(difference, [3], keepdims=0)
    return op.ReduceL2(difference, [3], keepdims=0)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces with the paths of this machine."""
    del model.metadata_props[:]
    for scope in (model.graph, *model.functions):
        del scope.metadata_props[:]
        scope.doc_string = ""
        for node in scope.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    model.producer_name, model.doc_string = "pe_runtime", ""


def _name_sizes(model: onnx.ModelProto, input: str) -> None:
    """Call dynamic sizes by name, where the exporter has symbols and formulas of symbols."""
    image = ("batch", None, "height", "width") if input == "float32" else ("batch", "height", "width", None)
    names = {"score": ("batch",), "map": ("batch", None, "map_height", "map_width")}
    for value in (*model.graph.input, *model.graph.output):
        for size, name in zip(value.type.tensor_type.shape.dim, names.get(value.name, image), strict=True):
            if name is not None:
                size.dim_param = name
    # Shapes of intermediate values still have the symbols, and runtimes infer them anyway.
    del model.graph.value_info[:]


def _verify(graph: ScoreGraph, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size = graph.metric.backbone.min_size
    pair = graph.example(3, 2 * size + 3, size + 7, seed=1)
    with torch.inference_mode():
        expected = graph(*pair)
    expected = expected if isinstance(expected, tuple) else (expected,)
    names = ("reference", "distorted")
    got = session.run(None, {name: images.numpy() for name, images in zip(names, pair, strict=True)})
    for (name, tolerance), eager, exported in zip(_TOLERANCES.items(), expected, got, strict=False):
        error, scale = float(np.abs(exported - eager.numpy()).max()), float(eager.abs().max())
        # Written so that NaN, for which every comparison is false, is refused as well.
        if not error <= tolerance * scale:
            raise RuntimeError(
                f"{name}: the exported graph differs from eager by {error:g} (largest value {scale:g})"
            )
