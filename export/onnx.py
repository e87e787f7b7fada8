"""Metrics and losses as ONNX graphs.

Inputs `reference` and `distorted`, outputs `score` (B,) and optionally `map` (B, 1, h, w) and `verdict` (B,);
batch, height and width are dynamic, preprocessing is inside, and the metadata entry "pe_runtime" describes
the file.

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
from torch import Tensor
from torch.export import Dim

from pe_runtime.atomic import atomic_path
from pe_runtime.checks import check_choice
from pe_runtime.defaults import torch_defaults
from pe_runtime.exporters.graph import (
    INPUT_NAMES,
    METADATA_KEY,
    PRECISIONS,
    Interface,
    ScoreGraph,
    describe,
)
from pe_runtime.exporters.native import no_operator
from pe_runtime.exporters.onnx_functions import add_functions
from pe_runtime.exporters.onnx_int8 import Calibration, quantised
from pe_runtime.exporters.onnx_tidy import merge_pools, store_half, tidy
from pe_runtime.exporters.recorded import recorder
from pe_runtime.exporters.verify import verify as check_outputs
from pe_runtime.metrics import Metric

OPSETS = (18, 19, 20, 21)
BLOCK_ROWS = 64


@torch_defaults()
def export_onnx(
    metric: Metric,
    path: str | os.PathLike[str],
    interface: Interface,
    *,
    fused: bool | None = None,
    precision: str = "float32",
    calibration: Calibration | None = None,
    opset: int = 18,
    block_rows: int = BLOCK_ROWS,
    verify: bool = True,
) -> Path:
    """Write a metric as an ONNX graph.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`. It is not changed.
        path: ends in .onnx. Written whole or not at all.
        interface: inputs and outputs.
        fused: use the operators of the domain "pe_runtime", which ONNX Runtime computes by the project's
            library, or without it by functions that the file has for them. None, False: standard operators.
        precision: "float32"; "float16": the weights of the backbone's convolutions are stored in it, and
            computed with in float32; "int8": the backbone's convolutions are quantised.
        calibration: for "int8": a folder of photographs, or pairs of images (files or arrays (H, W, 3) of
            uint8): ranges are taken from them, and the drift of the scores goes into the metadata.
        opset: version of the standard operators, 18 to 21; 18 reaches furthest.
        block_rows: source positions that the contextual loss in standard operators compares at once, >= 1,
            for all images of a batch together: its memory is in proportion.
        verify: score pairs of images of other sizes and batches than the graph was recorded with in
            ONNX Runtime, and compare with eager ("int8" is only compared on the calibration's images). Needs
            onnxruntime (or onnxruntime-gpu).

    Returns:
        The path.

    Raises:
        TypeError: not a metric.
        ValueError: an option out of its range, or one without another that it needs.
        ImportError: verify or "int8" without ONNX Runtime.
        RuntimeError: fused where there is no operator; a graph that does not reproduce the eager score.
        OSError: the file cannot be written.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset: expected one of {', '.join(str(o) for o in OPSETS)}, got {opset}")
    if block_rows < 1:
        raise ValueError(f"block_rows: expected at least 1, got {block_rows}")
    check_choice(precision, "precision", PRECISIONS)
    if (precision == "int8") != (calibration is not None):
        raise ValueError("calibration: expected photographs with precision 'int8', and only with it")
    if (verify or precision == "int8") and importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            "verify: expected onnxruntime to be installed; install pe_runtime[cpu] or verify=False"
        )
    if fused and (obstacle := no_operator(metric)):
        raise RuntimeError(f"fused: expected a metric that has operators, but {obstacle}")
    half = precision == "float16"
    # Quantised in one batch, both images have the same ranges, and identical images a score of 0.
    together = precision == "int8"
    graph = ScoreGraph(metric, interface, tap_map=recorder(metric), half=half, together=together)
    model = _recorded(graph, opset)
    merge_pools(model)
    add_functions(model, getattr(metric, "contextual", None), block_rows, opset)
    if half:
        store_half(model)
    model = tidy(model, inline=not fused)
    more: dict[str, Any] = {}
    if calibration is not None:
        model, more["calibration"] = quantised(model, graph, calibration)
        model = tidy(model, inline=False)
    _name_sizes(model, interface.input)
    uses_domain = any(node.domain for node in model.graph.node)
    description = describe(graph, fused=uses_domain, precision=precision, **more)
    onnx.helper.set_model_props(model, {METADATA_KEY: description})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
        if verify and precision != "int8":
            check_outputs(metric, graph, _runner(temporary), half=half)
    return Path(path)


def _recorded(graph: ScoreGraph, opset: int) -> onnx.ModelProto:
    """The graph of standard operators and, for what compares two feature maps, fused ones."""
    with warnings.catch_warnings():
        # The exporter warns of what it does itself: deprecated calls inside torch, names it replaces.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            graph.example(),
            dynamo=True,
            verbose=False,
            input_names=list(INPUT_NAMES),
            output_names=list(graph.interface.outputs),
            dynamic_shapes=graph.interface.dynamic_sizes(Dim.DYNAMIC),
            opset_version=opset,
        )
    assert program is not None  # it is only for the exporter that dynamo replaced
    model: onnx.ModelProto = program.model_proto
    return model


def _name_sizes(model: onnx.ModelProto, input: str) -> None:
    """Call dynamic sizes by name, where the exporter has symbols and formulas of symbols."""
    image = ("batch", None, "height", "width") if input == "float32" else ("batch", "height", "width", None)
    names = {
        "score": ("batch",),
        "verdict": ("batch",),
        "map": ("batch", None, "map_height", "map_width"),
    }
    for value in (*model.graph.input, *model.graph.output):
        for size, name in zip(value.type.tensor_type.shape.dim, names.get(value.name, image), strict=True):
            if name is not None:
                size.dim_param = name
    # Shapes of intermediate values still have the symbols, and runtimes infer them anyway.
    del model.graph.value_info[:]


def _runner(path: Path) -> Any:
    import onnxruntime

    # Without the library: what runs everywhere is what is checked.
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(reference: Tensor, distorted: Tensor) -> list[np.ndarray]:
        images = (reference.numpy(), distorted.numpy())
        outputs: list[np.ndarray] = session.run(None, dict(zip(INPUT_NAMES, images, strict=True)))
        return outputs

    return run
