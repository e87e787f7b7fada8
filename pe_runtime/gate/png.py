"""PNG files before their pixels: every chunk, its checksum, and the length that the pixels inflate to."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pe_runtime.gate.colour import Colour, described

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Largest ICC profile or text that is inflated.
MAX_INFLATED = 16 << 20

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGB_ALPHA: (8, 16),
}
# Left, top, and steps of the seven passes of an interlaced image.
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_BEFORE_PIXELS = (b"PLTE", b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_ONCE = (b"IHDR", b"eXIf", b"acTL", *_BEFORE_PIXELS)
_LENGTHS = {b"cICP": (4,), b"sRGB": (1,), b"gAMA": (4,), b"cHRM": (32,), b"PLTE": range(3, 769, 3)}
_IEND = b"\0\0\0\0IEND\xae\x42\x60\x82"
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_STEP, _MOST = 1 << 16, 1 << 20


@dataclass
class PngFile:
    """A PNG file whose chunks are whole.

    Attributes:
        width: in pixels.
        height: in pixels.
        depth: bits per sample.
        colour_type: GREY, RGB, PALETTE, GREY_ALPHA or RGB_ALPHA.
        interlaced: whether the pixels come in seven passes.
        frames: 1, unless it is an animation.
        colour: how its colours are described.
        exif: its EXIF block; None without one.
        xmp: its XMP packet; empty without one.
    """

    width: int
    height: int
    depth: int
    colour_type: int
    interlaced: bool
    frames: int = 1
    colour: Colour = field(default_factory=Colour)
    exif: bytes | None = None
    xmp: bytes = b""
    _head: bytes = b""
    _pixels: memoryview = field(default=memoryview(b""))

    def check_pixels(self) -> None:
        """Inflate all pixels, in bounded memory, and compare their length with the header.

        Raises:
            ValueError: they are damaged, or fewer or more than the header says.
        """
        _check_inflated(self._compressed(), self._inflated_length())

    def plain_file(self) -> bytes:
        """The file without the chunks that pixels do not need, of which decoders have their own opinions."""
        return b"".join((SIGNATURE, self._head, self._pixels, _IEND))

    def _compressed(self) -> Iterator[memoryview]:
        at = 0
        while at < len(self._pixels):
            (length,) = struct.unpack_from(">I", self._pixels, at)
            yield self._pixels[at + 8 : at + 8 + length]
            at += 12 + length

    def _inflated_length(self) -> int:
        bits = self.depth * _SAMPLES[self.colour_type]
        length = 0
        for left, top, across, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            columns = -(-(self.width - left) // across)
            rows = -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                length += rows * (1 + (columns * bits + 7) // 8)
        return length


def read_png(data: bytes) -> PngFile:
    """Check every chunk of a PNG, and read those that say what the pixels mean.

    Args:
        data: the file, which begins with SIGNATURE. What follows IEND is ignored.

    Raises:
        ValueError: a chunk is cut off, damaged, missing, or in a wrong place.
    """
    found = _collected(data)
    file = _read_header(found.once[b"IHDR"])
    if file.colour_type == PALETTE and b"PLTE" not in found.once:
        raise ValueError("expected a PNG with a palette, got none")
    for_pixels = [b"IHDR", b"PLTE"]
    if b"tRNS" in found.once and file.colour_type not in (GREY_ALPHA, RGB_ALPHA):
        _check_transparency(file, found.once[b"tRNS"], len(found.once.get(b"PLTE", b"")) // 3)
        for_pixels.append(b"tRNS")
    file._head = b"".join(_whole(kind, found.once[kind]) for kind in for_pixels if kind in found.once)
    file._pixels = memoryview(data)[found.pixels : found.end]
    file.frames = found.frames + (found.animated and not found.first_is_frame)
    file.colour = _colour(found.once)
    if _XMP in found.texts:
        file.xmp = _text(*found.texts[_XMP]) or b""
    if b"eXIf" in found.once:
        file.exif = bytes(found.once[b"eXIf"])
    elif _RAW_EXIF in found.texts:
        text = _text(*found.texts[_RAW_EXIF])
        file.exif = None if text is None else _raw_profile(text)
    return file


@dataclass
class _Found:
    """The chunks that are looked at; the others are checked and forgotten."""

    once: dict[bytes, memoryview] = field(default_factory=dict)
    texts: dict[bytes, tuple[bytes, memoryview]] = field(default_factory=dict)  # the last of each keyword
    pixels: int = 0  # where the IDAT chunks begin
    end: int = 0
    frames: int = 1
    animated: bool = False
    first_is_frame: bool = False


def _collected(data: bytes) -> _Found:
    found = _Found()
    for at, kind, content in _walk(data):
        if not found.once and kind != b"IHDR":
            raise ValueError(f"expected a PNG that begins with IHDR, got {_name(kind)}")
        if kind == b"IDAT":
            if found.end not in (0, at):
                raise ValueError("expected a PNG whose IDAT chunks follow each other")
            found.pixels, found.end = found.pixels or at, at + 12 + len(content)
        elif kind in _ONCE:
            _check_place(kind, content, found)
            found.once[kind] = content
        elif kind[:1].isupper() and kind != b"IEND":
            raise ValueError(f"expected a PNG of known chunks, got {_name(kind)}")
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = bytes(content[:80]).partition(b"\0")[0]
            if keyword in (_XMP, _RAW_EXIF):
                found.texts[keyword] = (kind, content)
        if found.pixels == 0 and kind == b"acTL" and len(content) >= 8:
            (frames,) = struct.unpack_from(">I", content)
            found.animated = 0 < frames <= 1 << 31
            found.frames = frames if found.animated else 1
        found.first_is_frame |= found.pixels == 0 and kind == b"fcTL"
    if found.pixels == 0:
        raise ValueError("expected a PNG that has pixels, got none")
    return found


def _check_place(kind: bytes, content: memoryview, found: _Found) -> None:
    if kind in found.once:
        raise ValueError(f"expected a PNG with one chunk {_name(kind)}, got more")
    if kind in _BEFORE_PIXELS and found.pixels:
        raise ValueError(f"expected a PNG whose {_name(kind)} chunk comes before its pixels")
    if kind == b"PLTE" and b"tRNS" in found.once:
        raise ValueError("expected a PNG whose PLTE chunk comes before its tRNS chunk")
    allowed = _LENGTHS.get(kind)
    if allowed is not None and len(content) not in allowed:
        raise ValueError(f"expected a PNG with a {_name(kind)} chunk of its length, got {len(content)} bytes")


def _walk(data: bytes) -> Iterator[tuple[int, bytes, memoryview]]:
    """Where each chunk begins, its name, and its content, whose checksum is right."""
    view = memoryview(data)
    at = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if len(data) - at < 12:
            raise ValueError("expected a PNG that ends with IEND, got one that is truncated")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if not kind.isalpha():
            raise ValueError(f"expected a PNG of named chunks, got {kind!r} at byte {at + 4}")
        if length >= 1 << 31 or length > len(data) - at - 12:
            raise ValueError(f"expected a PNG with all of its chunk {_name(kind)}, got one that is truncated")
        content = view[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(content, zlib.crc32(kind)) != checksum:
            raise ValueError(
                f"expected a PNG of whole chunks, got a wrong checksum of {_name(kind)} at byte {at}"
            )
        yield at, kind, content
        at += 12 + length


def _read_header(content: memoryview) -> PngFile:
    if len(content) != 13:
        raise ValueError(f"expected a PNG header of 13 bytes, got {len(content)}")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", content)
    known = depth in _DEPTHS.get(colour, ()) and (compression, filtering) == (0, 0) and interlace in (0, 1)
    if not (known and 0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise ValueError(
            f"expected a PNG header of known values, got {width} x {height} pixels of {depth} bits, "
            f"colour type {colour}, compression {compression}, filter {filtering}, interlace {interlace}"
        )
    return PngFile(width, height, depth, colour, interlace == 1)


def _check_transparency(file: PngFile, content: memoryview, colours: int) -> None:
    if file.colour_type == PALETTE:
        fits = 1 <= len(content) <= colours
    else:
        fits = len(content) == 2 * _SAMPLES[file.colour_type] and all(
            value < 1 << file.depth for value in struct.unpack(f">{len(content) // 2}H", content)
        )
    if not fits:
        raise ValueError("tRNS out of range")


def _colour(chunks: dict[bytes, memoryview]) -> Colour:
    gamma, chromaticities = chunks.get(b"gAMA"), chunks.get(b"cHRM")
    return described(
        icc=_profile(chunks[b"iCCP"]) if b"iCCP" in chunks else b"",
        cicp=tuple(chunks[b"cICP"]) if b"cICP" in chunks else None,
        srgb=b"sRGB" in chunks,
        gamma=None if gamma is None else struct.unpack(">I", gamma)[0],
        chromaticities=None if chromaticities is None else struct.unpack(">8I", chromaticities),
    )


def _profile(content: memoryview) -> bytes:
    name, _, rest = bytes(content[:81]).partition(b"\0")
    profile = _inflated(content[len(name) + 2 :]) if 0 < len(name) < 80 and rest[:1] == b"\0" else None
    if profile is None:
        raise ValueError("expected a PNG with a whole ICC profile, got a damaged chunk iCCP")
    return profile


def _text(kind: bytes, content: memoryview) -> bytes | None:
    """What a text chunk holds after its keyword; None where it does not inflate."""
    text = bytes(content).partition(b"\0")[2]
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]  # after the method
    elif kind == b"iTXt":
        compressed = text[:1] == b"\1"
        # After the method, the language and the translated keyword.
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _inflated(memoryview(text)) if compressed else text


def _raw_profile(text: bytes) -> bytes:
    """ImageMagick's: an empty line, the name, the length, then hexadecimal digits."""
    lines = text.split(b"\n", 3)
    digits = re.sub(rb"[^0-9a-fA-F]", b"", lines[3]) if len(lines) == 4 else b""
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


def _inflated(data: memoryview) -> bytes | None:
    """A zlib stream that ends, of at most MAX_INFLATED bytes; None for another."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_INFLATED)
        # The end may come after the last byte.
        text += stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error:
        return None
    return text if stream.eof and len(text) <= MAX_INFLATED else None


def _check_inflated(parts: Iterable[memoryview], expected: int) -> None:
    stream = zlib.decompressobj()
    length = 0
    for part in parts:
        # In steps: what one call leaves over is copied.
        for start in range(0, len(part), _STEP):
            if stream.eof:
                raise ValueError("expected a PNG whose pixels end with their zlib stream, got bytes after it")
            rest: bytes | memoryview = part[start : start + _STEP]
            got = _MOST
            while got == _MOST or (rest and not stream.eof):
                try:
                    got = len(stream.decompress(rest, _MOST))
                except zlib.error as error:
                    raise ValueError(f"expected a PNG with whole pixels, but: {error}") from None
                length += got
                if length > expected:
                    raise ValueError(f"expected {expected} bytes of pixels in the PNG, got more")
                rest = stream.unconsumed_tail
    if not stream.eof or length != expected:
        raise ValueError(f"expected {expected} bytes of pixels in the PNG, got {length}")
    if stream.unused_data:
        raise ValueError("expected a PNG whose pixels end with their zlib stream, got bytes after it")


def _whole(kind: bytes, content: memoryview) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _name(kind: bytes) -> str:
    return kind.decode("ascii")
