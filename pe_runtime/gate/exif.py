"""Which way up an image is seen: the orientation of EXIF and XMP."""

from __future__ import annotations

import re

from pe_runtime.gate.tags import BYTE, LONG, SHORT, Directory

ORIENTATION = 0x0112

_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb"tiff:Orientation(?:[ \t\r\n]*=[ \t\r\n]*[\"']|[ \t\r\n]*>[ \t\r\n]*)([0-9])")


def orientation(exif: bytes | None, xmp: bytes) -> tuple[int, bool]:
    """Orientation of an image by its metadata.

    Args:
        exif: the EXIF block, with up to two prefixes (some writers put it there twice); None without one.
        xmp: the XMP packet, which counts where EXIF has no orientation; empty without one.

    Returns:
        1 to 8 (EXIF 2.32, table 6), 1 is upright; and whether the EXIF block is damaged, which makes it
        upright.
    """
    if exif is None:
        return xmp_orientation(xmp), False
    for _ in range(2):
        exif = exif.removeprefix(_PREFIX)
    try:
        directory = Directory(exif)
    except ValueError:
        return 1, True
    return directory_orientation(directory, xmp), False


def directory_orientation(directory: Directory, xmp: bytes) -> int:
    """Orientation, 1 to 8, by a directory of tags; by XMP where it has none."""
    entry = directory.entries.get(ORIENTATION)
    if entry is None:
        return xmp_orientation(xmp)
    if entry.kind not in (BYTE, SHORT, LONG) or entry.count != 1:
        return 1
    value = int(directory.integers(ORIENTATION, 1, (BYTE, SHORT, LONG))[0])
    return value if 1 <= value <= 8 else 1


def xmp_orientation(xmp: bytes) -> int:
    """Orientation, 1 to 8, by the first attribute or element of that name that holds one."""
    for match in _XMP.finditer(xmp):
        value = int(match[1])
        if 1 <= value <= 8:
            return value
    return 1
