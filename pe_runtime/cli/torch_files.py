"""What TorchScript files, torch.export programs and AOTInductor packages say of themselves, without torch.

All three are zip archives. One entry is read, of bounded size; nothing is run, unpickled or unpacked.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from pe_runtime.gate.metric_file import METADATA_KEY, parse_metadata

MAX_METADATA_BYTES = 1 << 24


def is_archive(path: Path) -> bool:
    """Whether a file begins like a zip archive.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_archive(path: Path) -> tuple[str, dict[str, Any] | None]:
    """The format of a file for torch, and its metadata, if any.

    The format is "TorchScript", "torch.export" or "AOTInductor".

    Raises:
        ValueError: another kind of archive, or a damaged one; metadata that is not a JSON object or too long.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            kind = _format({_inside(entry) for entry in entries})
            texts = {text for text in (_metadata(archive, entry, kind) for entry in entries) if text}
    # RuntimeError: an entry that is encrypted, or compressed in a way that Python does not know.
    except (ValueError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a valid file of torch: {error}") from None
    if len(texts) > 1:
        raise ValueError(f"{path}: expected one entry {METADATA_KEY!r}, got {len(texts)}")
    return kind, parse_metadata(texts.pop(), path) if texts else None


def _inside(entry: zipfile.ZipInfo) -> str:
    """The name of an entry without the folder that holds everything."""
    return entry.filename.partition("/")[2]


def _format(names: set[str]) -> str:
    if any(name.startswith("data/aotinductor/") for name in names):
        return "AOTInductor"
    if any(name.startswith("models/") for name in names):
        return "torch.export"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "TorchScript"
    raise ValueError("another zip archive")


def _metadata(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, kind: str) -> str | None:
    name = _inside(entry)
    compiled = kind == "AOTInductor" and name.startswith("data/") and name.endswith("_metadata.json")
    if not compiled and name != f"extra/{METADATA_KEY}":
        return None
    with archive.open(entry) as file:
        data = file.read(MAX_METADATA_BYTES + 1)
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata of more than {MAX_METADATA_BYTES} bytes")
    if not compiled:
        return data.decode()
    # AOTInductor keeps texts by name, of which one is ours.
    try:
        texts = json.loads(data)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    text = texts.get(METADATA_KEY) if isinstance(texts, dict) else None
    return text if isinstance(text, str) else None
