"""Graph writers: an eager metric in, a file for an inference runtime out.

Installed as `pe_runtime.exporters`; `pe_runtime.export` is `export` below.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pe_runtime.metrics import Metric

_WRITERS = {
    ".onnx": ("pe_runtime.exporters.onnx", "export_onnx", {"calibration", "opset", "block_rows"}),
    ".pt": ("pe_runtime.exporters.torchscript", "export_torchscript", set()),
    ".pt2": ("pe_runtime.exporters.program", "export_program", {"compiled"}),
}
"""Suffix to module, function, and the options that it alone has."""


def export(
    metric: Metric,
    path: str | os.PathLike[str],
    *,
    input: str = "float32",
    map: bool = False,
    verdict: bool = False,
    threshold: float | None = None,
    fused: bool | None = None,
    precision: str = "float32",
    verify: bool = True,
    **options: Any,
) -> Path:
    """Write a metric or loss as a file that its own runtime scores with; the suffix chooses the format.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`. It is not changed.
        path: ends in .onnx (ONNX Runtime), .pt (TorchScript) or .pt2 (torch.export). Written whole or not
            at all.
        input: "float32": images (B, 3, H, W) in [0, 1]; "uint8": (B, H, W, 3), what a decoder gives.
        map: also give the map, (B, 1, h, w).
        verdict: also give whether the score passes, (B,) bool; needs a threshold.
        threshold: the largest score that passes, stored in the metadata; None: not set.
        fused: use the project's own operators. None: for .onnx no, for the others where they are there.
        precision: "float32"; "float16", of the backbone's weights; or, for .onnx, "int8".
        verify: compare the file's outputs with eager.
        options: of one format: for .onnx `calibration`, `opset` and `block_rows`, see
            `pe_runtime.exporters.onnx.export_onnx`; for .pt2 `compiled`, see
            `pe_runtime.exporters.program.export_program`.

    Returns:
        The path.

    Raises:
        TypeError: not a metric.
        ValueError: another suffix, an option out of its range, or one of another format.
        RuntimeError: the file does not reproduce the eager score, or fused operators are not there.
        OSError: the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise ValueError(f"path: expected a name that ends in .onnx, .pt or .pt2, got {str(path)!r}")
    from pe_runtime.exporters.graph import Interface

    module, function, own = _WRITERS[suffix]
    foreign = sorted(set(options) - own)
    if foreign:
        raise ValueError(f"{foreign[0]}: not an option of {suffix} files")
    written: Path = getattr(importlib.import_module(module), function)(
        metric,
        path,
        Interface(input, map, verdict, threshold),
        fused=fused,
        precision=precision,
        verify=verify,
        **options,
    )
    return written
