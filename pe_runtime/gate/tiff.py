"""TIFF files before their pixels: the directory, and whether all strips or tiles are there."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from pe_runtime.gate.colour import Colour, described
from pe_runtime.gate.exif import ORIENTATION, directory_orientation
from pe_runtime.gate.tags import BYTE, LONG, LONG8, SHORT, Directory

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

NONE, JPEG = 1, 7
# Uncompressed, CCITT run lengths, LZW, JPEG, Deflate (twice), PackBits, LZMA, Zstandard. Of the others
# libtiff fills rows that are missing, and says nothing of it.
_COMPRESSIONS = (NONE, 2, 5, JPEG, 8, 32946, 32773, 34925, 50000)
_PALETTE, _YCBCR = 3, 6
_COLOUR_MAP = 320
_ICC, _XMP = 34675, 700
_STRIP_TAGS, _TILE_TAGS = (273, 279), (324, 325)
_MOST_SAMPLES = 65536
_MOST_STRIPS = 1 << 20


@dataclass(frozen=True)
class TiffFile:
    """A TIFF file of one page, whose strips or tiles are all there.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        bits: per sample: 1, 2, 4, 8 or 16.
        samples: per pixel.
        photometric: what they mean: 0 and 1 grey (0: white is zero), 2 RGB, 3 palette, 5 CMYK, 6 YCbCr.
        planar: 1: interleaved; 2: in planes.
        compression: its number.
        premultiplied: whether colours are multiplied by alpha.
        orientation: 1 to 8; 1 is upright.
        colour: how its colours are described.
    """

    width: int
    height: int
    bits: int
    samples: int
    photometric: int
    planar: int
    compression: int
    premultiplied: bool
    orientation: int
    colour: Colour
    _data: bytes
    _directory: Directory

    def upright_file(self) -> bytes:
        """The file without its orientation, by which decoders may turn the pixels or not."""
        entries = self._directory.entries
        found = [entries[tag] for tag in (ORIENTATION, _XMP) if tag in entries]
        if not found:
            return self._data
        data = bytearray(self._data)
        form = self._directory.order + ("HHQHxxxxxx" if self._directory.big else "HHIHxx")
        for entry in found:
            struct.pack_into(
                form, data, entry.at, entry.tag, SHORT if entry.tag == ORIENTATION else BYTE, 1, 1
            )
        return bytes(data)


def read_tiff(data: bytes) -> TiffFile:
    """Check the directory of a TIFF and that its strips or tiles are what it implies.

    Args:
        data: the file, which begins as one of STARTS.

    Raises:
        ValueError: tags are missing, damaged or contradict each other; several pages; samples that are no
            unsigned integers of 1, 2, 4, 8 or 16 bits; a compression whose strips cannot be checked.
    """
    directory = Directory(data, big=True)
    if directory.next() != 0:
        raise ValueError("expected a single image, got a document of several pages")
    if directory.repeated:
        raise ValueError("expected a TIFF that has each tag once")
    directory.check_values()
    extra = directory.integers(338, _MOST_SAMPLES)
    file = TiffFile(
        width=directory.number(256, 0),
        height=directory.number(257, 0),
        bits=_bits(directory),
        samples=directory.number(277, 1),
        photometric=directory.number(262, 0),
        planar=directory.number(284, 1),
        compression=directory.number(259, NONE),
        premultiplied=extra.size > 0 and extra[0] == 1,
        orientation=directory_orientation(directory, directory.block(_XMP)),
        colour=described(icc=directory.block(_ICC)),
        _data=data,
        _directory=directory,
    )
    if file.width < 1 or file.height < 1 or file.samples < 1 or file.planar not in (1, 2):
        raise ValueError(
            f"expected a TIFF of pixels, got {file.width} x {file.height}, {file.samples} samples per pixel, "
            f"planar configuration {file.planar}"
        )
    if file.compression not in _COMPRESSIONS:
        raise ValueError(f"expected a TIFF whose strips can be checked, got compression {file.compression}")
    colours = len(directory.integers(_COLOUR_MAP, 3 << 16, (SHORT,)))
    if file.photometric == _PALETTE and colours != 3 << file.bits:
        raise ValueError(f"expected a palette of {3 << file.bits} values, got {colours}")
    if file.compression == NONE and file.photometric == _YCBCR:
        # Pillow writes them without subsampling and says that they have it.
        raise ValueError("expected grey, palette, RGB or CMYK pixels, got uncompressed YCbCr")
    return file


def check_strips(file: TiffFile) -> None:
    """Compare the number, places and lengths of strips or tiles with what the tags imply.

    Raises:
        ValueError: some are missing, lie outside the file, or are too short.
    """
    directory = file._directory
    tiled = [tag for tag in (322, 323, *_TILE_TAGS) if tag in directory.entries]
    if tiled and any(tag in directory.entries for tag in _STRIP_TAGS):
        raise ValueError("expected a TIFF of strips or of tiles, got both")
    what = "tiles" if tiled else "strips"
    width = directory.number(322, 0) if tiled else file.width
    height = directory.number(323, 0) if tiled else directory.number(278, file.height)
    if width < 1 or height < 1:
        raise ValueError(f"expected a TIFF with {what} of pixels, got {width} x {height}")
    if not tiled:
        height = min(height, file.height)
    across, down = -(-file.width // width), -(-file.height // height)
    planes = file.samples if file.planar == 2 else 1
    if across * down * planes > _MOST_STRIPS:
        raise ValueError(f"expected at most {_MOST_STRIPS} {what} in a TIFF, got {across * down * planes}")
    offsets, lengths = (
        _numbers(directory, tag, f"{what[:-1]} {name}", across * down * planes)
        for tag, name in zip(_TILE_TAGS if tiled else _STRIP_TAGS, ("offsets", "byte counts"), strict=True)
    )
    size = np.uint64(len(file._data))
    if not lengths.all() or (offsets > size).any() or (lengths > size - offsets).any():
        raise ValueError(f"expected a TIFF with all of its {what} inside the file, got one that is truncated")
    rows = np.full(down, height)
    if not tiled:
        rows[-1] = file.height - height * (down - 1)
    rows = np.tile(np.repeat(rows, across), planes)
    if file.compression == NONE:
        row_bytes = (width * file.bits * (1 if file.planar == 2 else file.samples) + 7) // 8
        if (lengths < rows.astype(np.uint64) * np.uint64(row_bytes)).any():
            raise ValueError(f"expected a TIFF with {what} of all their rows, got one that is truncated")
    if file.compression == JPEG:
        for offset, length, height in zip(offsets.tolist(), lengths.tolist(), rows.tolist(), strict=True):
            _check_jpeg(file._data, offset, length, width, height)


def check_16bit_layout(file: TiffFile) -> None:
    """Refuse layouts of 16-bit samples that OpenCV does not decode as they are meant.

    Raises:
        ValueError: anything but interleaved grey, RGB or RGBA.
    """
    known = (file.photometric, file.samples) in ((0, 1), (1, 1), (2, 3), (2, 4))
    if not known or file.planar != 1:
        raise ValueError(
            "expected a 16-bit TIFF of interleaved grey, RGB or RGBA samples, got photometric "
            f"interpretation {file.photometric}, {file.samples} samples per pixel, planar configuration "
            f"{file.planar}"
        )


def _bits(directory: Directory) -> int:
    bits = set(directory.integers(258, _MOST_SAMPLES).tolist() or [1])
    if set(directory.integers(339, _MOST_SAMPLES).tolist() or [1]) != {1}:
        raise ValueError("expected unsigned integer samples, got a floating-point or signed TIFF")
    if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16}:
        raise ValueError(f"expected 8 or 16 bits per sample, got {sorted(bits)}")
    return int(bits.pop())


def _numbers(directory: Directory, tag: int, name: str, expected: int) -> np.ndarray:
    entry = directory.entries.get(tag)
    count = 0 if entry is None else entry.count
    if count != expected:
        raise ValueError(f"{name}: expected {expected}, got {count}")
    return directory.integers(tag, expected, (SHORT, LONG, LONG8))


def _check_jpeg(data: bytes, start: int, length: int, width: int, height: int) -> None:
    """A strip or tile compressed as JPEG: a frame of at least its size, up to the end marker."""
    end = start + length
    # One byte may follow it: strips begin at even offsets.
    if data[start : start + 2] != b"\xff\xd8" or b"\xff\xd9" not in data[max(start, end - 3) : end]:
        raise ValueError("expected a TIFF with whole JPEG strips, got one that is truncated")
    at = start + 2
    while at + 9 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            if rows < height or columns < width:
                raise ValueError(
                    f"expected a TIFF with JPEG strips of {width} x {height}, got one of {columns} x {rows}"
                )
            return
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("expected a TIFF with whole JPEG strips, got one without a frame")
