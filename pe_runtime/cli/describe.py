"""`pe-runtime describe`: what an exported metric or a profile says of itself."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pe_runtime.gate.metric_file import METADATA_KEY, parse_metadata, read_metric
from pe_runtime.gate.report import printable


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, as_json: bool) -> None:
    """Print what FILE, a metric (.onnx) or a profile (.safetensors), says of itself.

    Neither is run, and torch is not needed. Which of the two it is shows from its content.

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
    """The metadata, inputs and outputs of a metric, or the metadata and tensors of a profile, JSON-able.

    Raises:
        ValueError: neither an ONNX nor a safetensors file, or a damaged one.
        OSError: the file cannot be read.
    """
    return _describe_profile(path) if _is_safetensors(path) else _describe_metric(path)


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
        "sha256": metric.sha256,
        "bytes": len(metric.data),
        "opsets": metric.opsets,
        **values,
        "metadata": metric.metadata,
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
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "tensors": described,
        "metadata": parse_metadata(texts[METADATA_KEY], path) if METADATA_KEY in texts else None,
    }


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
