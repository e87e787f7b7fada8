"""`pe-runtime describe`: what an exported metric or a profile says of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from pe_runtime.cli.torch_files import is_archive, read_archive
from pe_runtime.gate.metadata import METADATA_KEY, parse_metadata
from pe_runtime.gate.metric_file import describe_metric
from pe_runtime.gate.regular import open_regular, sha256_of
from pe_runtime.gate.report import printable

#: Of the header of a safetensors file, which is read whole: metadata of at most 1 MiB and a line per tensor.
MAX_HEADER_BYTES = 1 << 22


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, as_json: bool) -> None:
    """Print what FILE, a metric (.onnx, .pt, .pt2) or a profile (.safetensors), says of itself.

    Nothing is run, and torch is not needed. What it is shows from its content. FILE is read in pieces, and
    needs little memory.

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

    In memory that does not depend on the file's size.

    Raises:
        ValueError: no regular file; no ONNX, torch or safetensors file, or a damaged one; a list of entries
            or tensors of more than 4 MiB; metadata that is not valid.
        OSError: the file cannot be read.
    """
    file, size = open_regular(path, "a metric or a profile", sys.maxsize)
    with file:
        start = file.read(9)
        if is_archive(start):
            return _describe_archive(file, path, size)
        # Eight bytes of header length, then the header, a JSON object.
        if start[8:] == b"{":
            return _describe_profile(file, path, size)
    return _describe_metric(path)


def _describe_metric(path: Path) -> dict[str, Any]:
    metric, size = describe_metric(path)
    values = {
        side: {name: {"type": kind, "shape": list(shape)} for name, (kind, shape) in described.items()}
        for side, described in (("inputs", metric.inputs), ("outputs", metric.outputs))
    }
    return {
        "file": str(path),
        "kind": "metric",
        "format": "ONNX",
        "sha256": metric.sha256,
        "bytes": size,
        "opsets": metric.opsets,
        **values,
        "metadata": metric.metadata,
    }


def _describe_archive(file: BinaryIO, path: Path, size: int) -> dict[str, Any]:
    kind, metadata = read_archive(file, path)
    return {
        "file": str(path),
        "kind": "metric",
        "format": kind,
        "sha256": sha256_of(file),
        "bytes": size,
        "metadata": metadata,
    }


def _describe_profile(file: BinaryIO, path: Path, size: int) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    file.seek(0)
    header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(
            f"{path}: expected a valid safetensors file: a header of more than {MAX_HEADER_BYTES} bytes"
        )
    try:
        with safe_open(path, framework="np") as tensors:
            texts = tensors.metadata() or {}
            slices = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
            described = {
                name: {"type": str(tensor.get_dtype()), "shape": list(tensor.get_shape())}
                for name, tensor in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a valid safetensors file: {error}") from None
    text = texts.get(METADATA_KEY)
    return {
        "file": str(path),
        "kind": "profile",
        "sha256": sha256_of(file),
        "bytes": size,
        "tensors": described,
        "metadata": None if text is None else parse_metadata(text.encode(), path),
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
