"""Regular files only: opening a pipe would wait for its other end, and a device may never end."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str], expected: str, largest: int) -> tuple[BinaryIO, int]:
    """Open a file that is a regular one, without reading of it and without waiting.

    Args:
        path: the file.
        expected: what it should be, such as "an ONNX file", for errors.
        largest: most bytes that it may have.

    Returns:
        The file, which the caller closes, and its size in bytes.

    Raises:
        ValueError: a pipe, socket or device; an empty file, as those of /proc say they are; a larger one.
        OSError: it cannot be opened, or is a directory.
    """
    # Asked before opening as well, which may do something to a device.
    _check(path, Path(path).stat(), expected, largest)
    # Not waiting, should it have become a pipe since then.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        size = _check(path, os.fstat(descriptor), expected, largest)
        return os.fdopen(descriptor, "rb"), size
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], expected: str, largest: int) -> bytes:
    """The bytes of a regular file, under the conditions of `open_regular`.

    Raises:
        ValueError: the same; or it changed its size while it was read.
        OSError: it cannot be read.
    """
    file, size = open_regular(path, expected, largest)
    with file:
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise ValueError(f"{path}: expected {expected} that nobody writes to, but its size changed")
    return data


def sha256_of(file: BinaryIO) -> str:
    """The hex digest of a whole file, read in pieces."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _check(path: str | os.PathLike[str], status: os.stat_result, expected: str, largest: int) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path}: expected {expected}, got a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: expected {expected}, got something that is not a file")
    if status.st_size == 0:
        raise ValueError(f"{path}: expected {expected}, got an empty file")
    if status.st_size > largest:
        raise ValueError(
            f"{path}: expected {expected} of at most {largest} bytes, got {status.st_size} bytes"
        )
    return status.st_size
