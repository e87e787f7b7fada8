"""Image files, opened up to their pixels, and their pixels as stored.

Pillow reads headers and 8-bit pixels; OpenCV reads 16-bit pixels, of which Pillow silently keeps 8 bits.
Pillow decodes 16-bit TIFFs too, before OpenCV sees them: it refuses damaged strips, where OpenCV returns
what it has.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from pe_runtime.gate import png, tiff
from pe_runtime.gate.colour import Colour, described
from pe_runtime.gate.exif import orientation

#: Largest file read into memory. The pixel limit (Pillow's) at four 16-bit samples is less than this.
MAX_FILE_BYTES = 1 << 30

_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_EXPECTED = "expected a PNG, JPEG, WebP, BMP or TIFF image"
_BLOCK_PIXELS = 1 << 17


@dataclass(frozen=True)
class Samples:
    """Decoded pixels as they are stored: not turned, transparent, their colours not converted.

    Attributes:
        rgb: (H, W, 3), uint8 or uint16; grey is replicated.
        alpha: (H, W) of the same type; None without transparency.
        mode: Pillow's name for the pixel layout in the file ("RGB", "L", "P", "I;16", "CMYK", ...).
        premultiplied: whether `rgb` is multiplied by `alpha`.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    mode: str
    premultiplied: bool = False

    @property
    def space(self) -> str:
        """The colour space that an ICC profile of these pixels is for: "GRAY", "RGB" or "CMYK"."""
        if self.mode == "CMYK":
            return "CMYK"
        return "GRAY" if self.mode in ("1", "L", "LA", "La") or self.mode.startswith("I;16") else "RGB"


@dataclass(frozen=True)
class ImageFile:
    """An image file, opened and checked as far as that needs no pixels.

    Attributes:
        path: where it was read from.
        format: "PNG", "JPEG", "MPO" (a JPEG with further images, of which the first is read), "WEBP",
            "BMP" or "TIFF".
        width: in pixels, as stored.
        height: in pixels, as stored.
        bits: bits per sample in the file, as far as it says: 1, 2, 4, 8 or 16.
        orientation: of EXIF or XMP, 1 to 8; 1 is upright.
        damaged_exif: whether its EXIF block is damaged.
        colour: how its colours are described.
    """

    path: Path
    format: str
    width: int
    height: int
    bits: int
    orientation: int
    damaged_exif: bool
    colour: Colour
    _data: bytes
    _container: png.PngFile | tiff.TiffFile | None

    @property
    def premultiplied(self) -> bool:
        """Whether the file stores colours multiplied by alpha."""
        return isinstance(self._container, tiff.TiffFile) and self._container.premultiplied

    def decode(self) -> Samples:
        """Decode the pixels.

        Raises:
            ValueError: they are damaged, or of a kind that is not read. The error names the file.
        """
        try:
            return self._decode()
        except Exception as error:  # decoders fail on damaged files with almost any exception
            raise _named(self.path, error) from error

    def _decode(self) -> Samples:
        data, container = self._data, self._container
        if isinstance(container, png.PngFile):
            container.check_pixels()
            data = container.plain_file()
        elif container is not None:
            data = container.upright_file()
        if self.bits == 16:
            return _decode_16bit(data, container)
        with _pillow_image(data, self.format) as file:
            if file.size != (self.width, self.height):
                raise ValueError(f"expected {self.width} x {self.height} pixels, got {file.size}")
            file.load()
            return _decode_8bit(file, self.bits)


def open_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read a file and check it as far as that needs no pixels; its content decides the format.

    Raises:
        ValueError: not one of the formats; damaged; animated or with several pages; of a kind that is not
            read; more pixels than `PIL.Image.MAX_IMAGE_PIXELS`. The error names the file.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        return _open(data, path)
    except Exception as error:  # as above
        raise _named(path, error) from error


def blocks(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of an image, in parts of which a copy is small."""
    columns = min(width, _BLOCK_PIXELS)
    rows = max(1, _BLOCK_PIXELS // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def _named(path: Path, error: Exception) -> ValueError:
    if isinstance(error, PIL.UnidentifiedImageError):
        return ValueError(f"{path}: {_EXPECTED}, got another kind of file or a damaged header")
    return ValueError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}")


def _read_bytes(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: {_EXPECTED}, got something that is not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {status.st_size}")
    return path.read_bytes()


def _open(data: bytes, path: Path) -> ImageFile:
    if data.startswith(png.SIGNATURE):
        return _open_png(data, path)
    if data.startswith(tiff.STARTS):
        return _open_tiff(data, path)
    if data.startswith(b"\xff\xd8\xff"):
        kind = "JPEG"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = "WEBP"
    elif data.startswith(b"BM"):
        kind = "BMP"
    else:
        raise ValueError(f"{_EXPECTED}, got another kind of file or a damaged header")
    with _pillow_image(data, kind) as file:
        _check_size(*file.size)
        frames = getattr(file, "n_frames", 1)
        # The first image of an MPO is the photograph; the others are previews and depth or gain maps.
        if file.format != "MPO":
            _check_frames(frames)
        turned, damaged = orientation(file.info.get("exif"), _bytes(file.info.get("xmp", b"")))
        return ImageFile(
            path=path,
            format=str(file.format),
            width=file.width,
            height=file.height,
            bits=1 if file.mode == "1" else 8,
            orientation=turned,
            damaged_exif=damaged,
            colour=described(icc=file.info.get("icc_profile") or b""),
            _data=data,
            _container=None,
        )


def _open_png(data: bytes, path: Path) -> ImageFile:
    file = png.read_png(data)
    _check_size(file.width, file.height)
    _check_frames(file.frames)
    turned, damaged = orientation(file.exif, file.xmp)
    return ImageFile(
        path=path,
        format="PNG",
        width=file.width,
        height=file.height,
        bits=file.depth,
        orientation=turned,
        damaged_exif=damaged,
        colour=file.colour,
        _data=b"",  # its chunks are in the container
        _container=file,
    )


def _open_tiff(data: bytes, path: Path) -> ImageFile:
    file = tiff.read_tiff(data)
    _check_size(file.width, file.height)
    tiff.check_strips(file)
    if file.bits == 16:
        tiff.check_16bit_layout(file)
    # What kinds of samples there are is in Pillow's tables.
    with _pillow_image(data, "TIFF"):
        pass
    return ImageFile(
        path=path,
        format="TIFF",
        width=file.width,
        height=file.height,
        bits=file.bits,
        orientation=file.orientation,
        damaged_exif=False,
        colour=file.colour,
        _data=data,
        _container=file,
    )


def _pillow_image(data: bytes, kind: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data), formats=("JPEG" if kind == "MPO" else kind,))


def _bytes(text: str | bytes) -> bytes:
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def _check_size(width: int, height: int) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"expected at most {limit} pixels, got {width} x {height}")


def _check_frames(frames: int) -> None:
    if frames != 1:
        raise ValueError(f"expected a single image, got an animation or a document of {frames} pages")


def _decode_8bit(file: PIL.Image.Image, bits: int) -> Samples:
    if file.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"expected grey, palette, RGB or CMYK pixels, got Pillow's mode {file.mode!r}")
    transparent = file.info.get("transparency")
    if bits < 8 and file.mode in ("1", "L") and isinstance(transparent, int) and transparent < 2**bits:
        # Pillow stretches greys of fewer bits to 8, but, except for 1 bit in its later versions, not the
        # grey that stands for transparent. A stretched one other than 0 is never as small as this.
        file.info["transparency"] = transparent * (255 // (2**bits - 1))
    mode = "RGBA" if file.has_transparency_data else "RGB"
    pixels = np.empty((file.height, file.width, len(mode)), np.uint8)
    for rows, columns in blocks(file.height, file.width):
        part = file.crop((columns.start, rows.start, columns.stop, rows.stop))
        pixels[rows, columns] = np.asarray(part if part.mode == mode else part.convert(mode))
    if mode == "RGB":
        return Samples(pixels, None, file.mode)
    return Samples(pixels[..., :3], pixels[..., 3], file.mode)


def _decode_16bit(data: bytes, container: png.PngFile | tiff.TiffFile | None) -> Samples:
    # Imported here: most runs see no 16-bit image.
    import cv2

    kind = "PNG" if isinstance(container, png.PngFile) else "TIFF"
    with _pillow_image(data, kind) as file:
        mode, size, transparent = file.mode, file.size, file.info.get("transparency")
        if kind == "TIFF":
            file.load()
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[1::-1] != size:
        raise ValueError(f"expected 16-bit pixels that OpenCV can decode, got a {kind} that it cannot")
    if decoded.ndim == 3:
        # A fourth sample that the TIFF does not declare to be alpha is not alpha; Pillow drops it as well.
        has_alpha = decoded.shape[2] == 4 and (kind == "PNG" or mode == "RGBA")
        premultiplied = isinstance(container, tiff.TiffFile) and container.premultiplied
        alpha = decoded[..., 3] if has_alpha else None
        if isinstance(container, png.PngFile) and container.colour_type == png.GREY_ALPHA:
            mode = "LA"  # which Pillow has for 8 bits only
        return Samples(decoded[..., 2::-1], alpha, mode, has_alpha and premultiplied)
    if isinstance(container, tiff.TiffFile) and container.photometric == 0:  # white is zero
        np.subtract(np.uint16(65535), decoded, out=decoded)
    alpha = None
    if kind == "PNG" and isinstance(transparent, int):
        alpha = np.where(decoded == transparent, np.uint16(0), np.uint16(65535))
    return Samples(np.broadcast_to(decoded[..., None], (*decoded.shape, 3)), alpha, mode)
