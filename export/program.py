"""Metrics and losses as programs of torch.export, and as packages compiled by AOTInductor.

Called with `reference` and `distorted`; gives a tuple of score (B,) and optionally map (B, 1, h, w) and
verdict (B,). Batch, height and width are free, preprocessing is inside, and an entry "pe_runtime" describes
the file.

As a script, `python export/program.py` is `pe-runtime export`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Python put this folder first on the path, where onnx.py would hide the onnx package.
    sys.path.pop(0)
    from pe_runtime.cli import main

    main(["export", *sys.argv[1:]])

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from pe_runtime.atomic import atomic_path
from pe_runtime.checks import check_choice
from pe_runtime.defaults import torch_defaults
from pe_runtime.exporters.graph import METADATA_KEY, Interface, ScoreGraph, describe
from pe_runtime.exporters.native import TORCH_PRECISIONS, uses_operators
from pe_runtime.exporters.verify import Run
from pe_runtime.exporters.verify import verify as check_outputs
from pe_runtime.metrics import Metric


@torch_defaults()
def export_program(
    metric: Metric,
    path: str | os.PathLike[str],
    interface: Interface,
    *,
    fused: bool | None = None,
    precision: str = "float32",
    compiled: bool = False,
    verify: bool = True,
) -> Path:
    """Write a metric as a program of torch.export, or as a package of machine code.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`. It is not changed.
        path: ends in .pt2. Written whole or not at all.
        interface: inputs and outputs.
        fused: call the operators of torch, so that the file loads where libpe_runtime_torch.so is loaded;
            False: not, so that it loads everywhere. None: if they are there and can do what the metric asks.
        precision: "float32"; "float16": the weights of the backbone's convolutions are stored in it, and
            computed with in float32.
        compiled: compile it, by AOTInductor, for processors like this one and for this version of torch.
            Needs a C++ compiler, and takes up to minutes.
        verify: compare with eager on pairs of images of other sizes and batches.

    Returns:
        The path.

    Raises:
        TypeError: not a metric.
        ValueError: an option out of its range.
        RuntimeError: fused without operators; a file that does not reproduce the eager score; no compiler.
        OSError: the file cannot be written.
    """
    check_choice(precision, "precision", TORCH_PRECISIONS)
    half = precision == "float16"
    native = uses_operators(metric, fused)
    graph = ScoreGraph(metric, interface, kernels="native" if native else "reference", half=half)
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        # Without the patch, sizes of 1 (of the batch, or of the maps of small images) would be refused.
        program = torch.export.export(
            graph, graph.example(), dynamic_shapes=interface.dynamic_sizes(Dim.DYNAMIC), strict=False
        )
    _strip(program)
    description = describe(graph, fused=native, precision=precision)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        temporary.write_bytes((_compiled if compiled else _saved)(program, description))
        if verify:
            check_outputs(metric, graph, _runner(temporary, compiled), half=half)
    return Path(path)


def _saved(program: ExportedProgram, description: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_KEY: description})
    return file.getvalue()


def _compiled(program: ExportedProgram, description: str) -> bytes:
    file = io.BytesIO()
    configs = {"aot_inductor.metadata": {METADATA_KEY: description}}
    torch._inductor.aoti_compile_and_package(program, package_path=file, inductor_configs=configs)
    return file.getvalue()


def _runner(path: Path, compiled: bool) -> Run:
    load: Callable[[Path], Callable[..., Any]] = _load_compiled if compiled else _load
    module = load(path)

    def run(reference: Tensor, distorted: Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(reference, distorted)]

    return run


def _load(path: Path) -> Callable[..., Any]:
    return torch.export.load(path).module()


def _load_compiled(path: Path) -> Callable[..., Any]:
    return torch._inductor.aoti_load_package(str(path))


def _strip(program: ExportedProgram) -> None:
    """Remove what the exporter notes for debugging: stack traces with the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
