"""Graph writers: an eager metric in, a file for an inference runtime out.

Installed as `pe_runtime.exporters`; `pe_runtime.export` is `export` below.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pe_runtime.metrics import Metric


def export(metric: Metric, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write a metric or loss as a file that its own runtime scores with; the suffix chooses the format.

    Args:
        metric: a `FeatureDistance`, `LPIPS` or `ContextualLoss`.
        path: ends in .onnx: an ONNX graph of standard operators, see `pe_runtime.exporters.onnx.export_onnx`
            for the options (`input`, `map`, `threshold`, `opset`, `verify`).

    Returns:
        The path.

    Raises:
        ValueError: another suffix, or an option out of its range.
        OSError: the file cannot be written.
    """
    if Path(path).suffix != ".onnx":
        raise ValueError(f"path: expected a name that ends in .onnx, got {str(path)!r}")
    from pe_runtime.exporters.onnx import export_onnx

    return export_onnx(metric, path, **options)
