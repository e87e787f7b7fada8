"""Metrics and losses as TorchScript files, for libtorch and Python.

Called with `reference` and `distorted`; gives a tuple of score (B,) and optionally map (B, 1, h, w) and
verdict (B,). Batch, height and width are free, preprocessing is inside, and the extra file "pe_runtime"
describes the file.

As a script, `python export/torchscript.py` is `pe-runtime export`.
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
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_runtime.atomic import atomic_path
from pe_runtime.checks import check_choice
from pe_runtime.defaults import torch_defaults
from pe_runtime.exporters.graph import METADATA_KEY, Interface, ScoreGraph, describe
from pe_runtime.exporters.native import TORCH_PRECISIONS, uses_operators
from pe_runtime.exporters.verify import Run
from pe_runtime.exporters.verify import verify as check_outputs
from pe_runtime.metrics import Metric


@torch_defaults()
def export_torchscript(
    metric: Metric,
    path: str | os.PathLike[str],
    interface: Interface,
    *,
    fused: bool | None = None,
    precision: str = "float32",
    verify: bool = True,
) -> Path:
    """Write a metric as a TorchScript file, by tracing.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`. It is not changed.
        path: ends in .pt. Written whole or not at all.
        interface: inputs and outputs.
        fused: call the operators of torch, so that the file loads where libpe_runtime_torch.so is loaded;
            False: not, so that it loads everywhere. None: if they are there and can do what the metric asks.
        precision: "float32"; "float16": the weights of the backbone's convolutions are stored in it, and
            computed with in float32.
        verify: compare with eager on pairs of images of other sizes and batches.

    Returns:
        The path.

    Raises:
        TypeError: not a metric.
        ValueError: an option out of its range.
        RuntimeError: fused without operators; a file that does not reproduce the eager score.
        OSError: the file cannot be written.
    """
    check_choice(precision, "precision", TORCH_PRECISIONS)
    half = precision == "float16"
    native = uses_operators(metric, fused)
    graph = ScoreGraph(metric, interface, kernels="native" if native else "reference", half=half)
    description = describe(graph, fused=native, precision=precision)
    with warnings.catch_warnings(), torch.no_grad(), atomic_path(path) as temporary:
        # torch advises torch.export, and tells of sizes that tracing follows all the same.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, graph.example(), check_trace=False)
        temporary.write_bytes(_saved(traced, {METADATA_KEY: description}))
        if verify:
            check_outputs(metric, graph, _runner(temporary), half=half)
    return Path(path)


def _saved(traced: Any, extra_files: dict[str, str]) -> bytes:
    """The file, without the tables that trace each line to the source on this machine."""
    whole, kept = io.BytesIO(), io.BytesIO()
    torch.jit.save(traced, whole, _extra_files=extra_files)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(kept, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return kept.getvalue()


def _runner(path: Path) -> Run:
    loaded = torch.jit.load(path)

    def run(reference: Tensor, distorted: Tensor) -> list[np.ndarray]:
        return [output.numpy() for output in loaded(reference, distorted)]

    return run
