"""What TorchScript files, torch.export programs and AOTInductor packages say of themselves, without torch.

All three are zip archives. A few entries of bounded size are read; nothing is run, unpickled or unpacked.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from pe_runtime.gate.metadata import MAX_METADATA_BYTES, METADATA_KEY, parse_json, parse_metadata

#: Of the list of entries, of which each makes an object of some hundred bytes.
MAX_DIRECTORY_BYTES = 1 << 22
#: Entries with metadata; AOTInductor writes two.
MAX_ENTRIES = 8


def is_archive(start: bytes) -> bool:
    """Whether a file that begins with these bytes begins like a zip archive."""
    return start.startswith(b"PK\x03\x04")


def read_archive(file: BinaryIO, path: Path) -> tuple[str, dict[str, Any] | None]:
    """The format of a file for torch, and its metadata, if any.

    The format is "TorchScript", "torch.export" or "AOTInductor".

    Raises:
        ValueError: another kind of archive, or a damaged one; metadata that is not a valid JSON object or too
            long; too many entries.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(cast(BinaryIO, _BoundedReads(file))) as archive:
            entries = archive.infolist()
            kind = _format({_inside(entry) for entry in entries})
            found = [entry for entry in entries if _has_metadata(_inside(entry), kind)]
            if len(found) > MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} entries with metadata")
            texts = {text for text in (_metadata(archive, entry, kind) for entry in found) if text}
    # RuntimeError: an entry that is encrypted, or compressed in a way that Python does not know.
    except (ValueError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a valid file of torch: {error}") from None
    if len(texts) > 1:
        raise ValueError(f"{path}: expected one entry {METADATA_KEY!r}, got {len(texts)}")
    return kind, parse_metadata(texts.pop(), path) if texts else None


class _BoundedReads:
    """A file that refuses to be read in pieces larger than a list of entries may be."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.seekable, self._file = file.tell, file.seekable, file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError:  # before the beginning, or beyond all files
            raise ValueError("an entry that is not in the file") from None

    def read(self, count: int = -1) -> bytes:
        if 0 <= count <= MAX_DIRECTORY_BYTES:
            return self._file.read(count)
        data = self._file.read(MAX_DIRECTORY_BYTES + 1)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise ValueError(f"a list of entries of more than {MAX_DIRECTORY_BYTES} bytes")
        return data


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


def _has_metadata(name: str, kind: str) -> bool:
    compiled = kind == "AOTInductor" and name.startswith("data/") and name.endswith("_metadata.json")
    return compiled or name == f"extra/{METADATA_KEY}"


def _metadata(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, kind: str) -> bytes | None:
    # Other methods give all that a compressed piece holds at once, however much that is.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("metadata that is neither stored nor deflated")
    with archive.open(entry) as file:
        data = file.read(MAX_METADATA_BYTES + 1)
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata of more than {MAX_METADATA_BYTES} bytes")
    if _inside(entry) == f"extra/{METADATA_KEY}":
        return data
    # AOTInductor keeps texts by name, of which one is ours.
    texts = parse_json(data)
    text = texts.get(METADATA_KEY) if isinstance(texts, dict) else None
    return text.encode() if isinstance(text, str) else None
