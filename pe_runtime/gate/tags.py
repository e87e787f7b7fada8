"""Directories of tags, as TIFF files and EXIF blocks begin with (TIFF 6.0, section 2; BigTIFF)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

BYTE, SHORT, LONG, UNDEFINED, LONG8 = 1, 3, 4, 7, 16

_INTEGERS = {BYTE: "u1", SHORT: "u2", LONG: "u4", LONG8: "u8"}
# Bytes of a value of each type: BYTE, ASCII, SHORT, LONG, RATIONAL, ...; of BigTIFF from 16 on.
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_MOST_ENTRIES = 65535


@dataclass(frozen=True)
class Entry:
    """One tag of a directory.

    Attributes:
        tag: its number.
        kind: type of its values (BYTE, SHORT, ...).
        count: how many values there are.
        at: where its 12 (BigTIFF: 20) bytes begin in the data.
        field: where its values, or their offset, begin.
    """

    tag: int
    kind: int
    count: int
    at: int
    field: int


class Directory:
    """The first directory of some data.

    Args:
        data: a TIFF file, or an EXIF block without a prefix.
        big: whether BigTIFF is one, too.

    Attributes:
        order: "<" or ">".
        big: whether it is a BigTIFF.
        entries: the first entry of each tag.
        repeated: whether a tag is there twice.
        end: where the entries end, and the offset of the next directory is expected.

    Raises:
        ValueError: not the header of a TIFF file, or the directory is not wholly inside the data.
    """

    def __init__(self, data: bytes, *, big: bool = False) -> None:
        self._data = data
        start = data[:4]
        self.big = big and start in (b"II+\0", b"MM\0+")
        if not self.big and start not in (b"II*\0", b"MM\0*"):
            raise ValueError("expected the header of a TIFF file")
        self.order = "<" if data[:1] == b"I" else ">"
        if self.big and self._integers(4, "H", 2) != (8, 0):
            raise ValueError("expected offsets of 8 bytes in a BigTIFF")
        # Bytes of an offset, of the number of entries, of an entry; how an entry begins.
        offset, number, size, entry = (8, "Q", 20, "HHQ") if self.big else (4, "H", 12, "HHI")
        (at,) = self._integers(8 if self.big else 4, "Q" if self.big else "I")
        (count,) = self._integers(at, number)
        at += struct.calcsize("<" + number)
        self.end = at + size * count
        if self.end > len(data) or count > _MOST_ENTRIES:
            raise ValueError("expected a directory inside the file")
        self.entries: dict[int, Entry] = {}
        for place in range(at, self.end, size):
            tag, kind, values = struct.unpack_from(self.order + entry, data, place)
            self.entries.setdefault(tag, Entry(tag, kind, values, place, place + size - offset))
        self.repeated = len(self.entries) < count

    def check_values(self) -> None:
        """Find the values of all tags of known types.

        Raises:
            ValueError: some are not inside the data.
        """
        for entry in self.entries.values():
            if entry.kind in _SIZES:
                self._place(entry)

    def next(self) -> int:
        """Offset of the next directory, 0 after the last.

        Raises:
            ValueError: it is not there.
        """
        return self._integers(self.end, "Q" if self.big else "I")[0]

    def integers(
        self, tag: int, most: int, kinds: tuple[int, ...] = (SHORT, LONG, LONG8)
    ) -> np.ndarray:
        """The values of a tag, uint64; none where it is missing.

        Args:
            tag: its number.
            most: how many values there may be at most.
            kinds: the types that they may have.

        Raises:
            ValueError: they are of another type, more than `most`, or not inside the data.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return np.zeros(0, np.uint64)
        if entry.kind not in kinds:
            raise ValueError(f"tag {tag}: expected integers, got values of type {entry.kind}")
        if entry.count > most:
            raise ValueError(f"tag {tag}: expected at most {most} values, got {entry.count}")
        kind = np.dtype(self.order + _INTEGERS[entry.kind])
        return np.frombuffer(self._bytes(entry), kind).astype(np.uint64)

    def number(self, tag: int, default: int) -> int:
        """The single value of a tag, or `default` where it is missing.

        Raises:
            ValueError: not one integer, or one of more than 32 bits.
        """
        values = self.integers(tag, 1)
        if tag in self.entries and not values.size:
            raise ValueError(f"tag {tag}: expected a value, got none")
        if values.size and values[0] >= 1 << 32:
            raise ValueError(f"tag {tag}: expected at most 32 bits, got {values[0]}")
        return int(values[0]) if values.size else default

    def block(self, tag: int) -> bytes:
        """The bytes of a tag that holds bytes; none where it is missing or of another type.

        Raises:
            ValueError: they are not inside the data.
        """
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in (BYTE, UNDEFINED):
            return b""
        return self._bytes(entry)

    def _bytes(self, entry: Entry) -> bytes:
        return self._data[self._place(entry)]

    def _place(self, entry: Entry) -> slice:
        length = entry.count * _SIZES[entry.kind]
        at = entry.field
        if length > (8 if self.big else 4):
            (at,) = self._integers(entry.field, "Q" if self.big else "I")
        if at + length > len(self._data):
            raise ValueError(f"tag {entry.tag}: expected values inside the file")
        return slice(at, at + length)

    def _integers(self, at: int, kind: str, count: int = 1) -> tuple[int, ...]:
        form = f"{self.order}{count}{kind}"
        if at + struct.calcsize(form) > len(self._data):
            raise ValueError("expected a directory inside the file")
        return struct.unpack_from(form, self._data, at)
