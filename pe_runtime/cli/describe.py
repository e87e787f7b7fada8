"""`pe-runtime describe`: what an exported metric or a profile says of itself."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pe_runtime.cli.torch_files import is_archive, read_archive
from pe_runtime.gate.metric_file import METADATA_KEY, parse_metadata, read_metric
from pe_runtime.gate.report import printable


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, as_json: bool) -> None:
    """Print what FILE, a metric (.onnx, .pt, .pt2) or a profile (.safetensors), says of itself.

    Nothing is run, and torch is not needed. What it is shows from its content.

    \b
    Example:
      pe-runtime describe metric.onnx
    """
    description = describe_file(file)
    if as_json:
        click.echo(json.dumps(description, indent=2, allow_nan=False))
        return
    rows = list(_rows(description))
    widest = max(len(key) for key, _ in rows)
    for key, value in rows:
        # Not wrapped to the terminal, so that a line can be searched for and copied.
        click.echo(printable(f"{key:{widest}}  {value}", sys.stdout.encoding))


def describe_file(path: Path) -> dict[str, Any]:
    """The metadata of a metric (with inputs and outputs, if ONNX) or of a profile (with tensors), JSON-able.

    Raises:
        ValueError: no ONNX, torch or safetensors file, or a damaged one.
        OSError: the file cannot be read.
    """
    if _is_safetensors(path):
        return _describe_profile(path)
    return _describe_archive(path) if is_archive(path) else _describe_metric(path)


def _is_safetensors(path: Path) -> bool:
    # Eight bytes of header length, then the header, a JSON object.
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _describe_metric(path: Path) -> dict[str, Any]:
    metric = read_metric(path)
    values = {
        side: {name: {"type": kind, "shape": list(shape)} for name, (kind, shape) in described.items()}
        for side, described in (("inputs", metric.inputs), ("outputs", metric.outputs))
    }
    return {
        "file": str(path),
        "kind": "metric",
        "format": "ONNX",
        "sha256": metric.sha256,
        "bytes": len(metric.data),
        "opsets": metric.opsets,
        **values,
        "metadata": metric.metadata,
    }


def _describe_archive(path: Path) -> dict[str, Any]:
    kind, metadata = read_archive(path)
    return {
        "file": str(path),
        "kind": "metric",
        "format": kind,
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "metadata": metadata,
    }


def _describe_profile(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_slice(name) for name in sorted(file.keys())}
            described = {
                name: {"type": str(tensor.get_dtype()), "shape": list(tensor.get_shape())}
                for name, tensor in tensors.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a valid safetensors file: {error}") from None
    return {
        "file": str(path),
        "kind": "profile",
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "tensors": described,
        "metadata": parse_metadata(texts[METADATA_KEY], path) if METADATA_KEY in texts else None,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _rows(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as dotted keys; lists and values on one line each."""
    if isinstance(value, dict) and set(value) == {"type", "shape"}:
        sizes = ", ".join("?" if size is None else str(size) for size in value["shape"])
        yield prefix, f"{value['type']} ({sizes})"
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _rows(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, str):
        yield prefix, value
    else:
        yield prefix, "none" if value in (None, {}, []) else json.dumps(value)
