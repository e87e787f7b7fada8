"""Image files as RGB arrays: what the pixels of a PNG, JPEG, WebP, BMP or TIFF mean to a metric.

Pillow reads headers, orientation and 8-bit pixels; OpenCV reads 16-bit pixels, of which Pillow silently
keeps 8 bits. Pillow decodes 16-bit files too, before OpenCV sees them: it refuses truncated files and
bad checksums, where OpenCV returns what it has.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

#: Mid-grey. Over white (or black) a defect in white (or black) content vanishes against the background,
#: and such content is common in images with alpha; mid-grey differs from both by as much as possible.
DEFAULT_BACKGROUND = (128, 128, 128)

#: Largest file read into memory. The pixel limit (Pillow's) at four 16-bit samples is less than this.
MAX_FILE_BYTES = 1 << 30

_ORIENTATION = 0x0112
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_EXPECTED = "expected a PNG, JPEG, WebP, BMP or TIFF image"


@dataclass(frozen=True)
class Image:
    """The pixels of an image file as they are meant to be seen, and what was done to get them.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, the full range of the type. Orientation is applied, alpha
            is composited over the background, grey is replicated.
        path: where it was read from.
        format: "PNG", "JPEG", "MPO" (a JPEG with further images, of which the first is read), "WEBP",
            "BMP" or "TIFF".
        mode: Pillow's name for the pixel layout in the file ("RGB", "L", "P", "I;16", "CMYK", ...).
        bits: bits per sample in the file, as far as it says: 1, 2, 4, 8 or 16.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        alpha: whether transparency was composited.
        icc: SHA-256 of the ICC profile, which is not applied; None without one.
    """

    pixels: np.ndarray
    path: Path
    format: str
    mode: str
    bits: int
    orientation: int
    alpha: bool
    icc: str | None


def read_image(
    path: str | os.PathLike[str], *, background: tuple[int, int, int] = DEFAULT_BACKGROUND
) -> Image:
    """Decode one image file; what it holds is found from its content, not from its name.

    Args:
        path: a PNG, JPEG, WebP, BMP or TIFF file, with 1 to 8 or 16 bits per sample.
        background: 8-bit RGB that transparent pixels are composited over.

    Returns:
        The image, its pixels RGB of 8 or 16 bits.

    Raises:
        ValueError: not one of the five formats; truncated or damaged; animated or with several pages;
            floating-point, signed, or of another depth; more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
            The error names the file.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        return _decode(data, path, background)
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{path}: {_EXPECTED}, got another kind of file or a damaged header") from None
    except Exception as error:  # decoders fail on damaged files with almost any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: {reason}") from error


def as_float(pixels: np.ndarray) -> np.ndarray:
    """Planar float pixels, as exported metrics take them.

    Args:
        pixels: (H, W, 3), uint8 or uint16.

    Returns:
        (3, H, W) float32 in [0, 1]: pixels / 255 or pixels / 65535.

    Raises:
        TypeError: neither uint8 nor uint16.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels: expected uint8 or uint16, got {pixels.dtype}")
    planar = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    planar /= np.float32(np.iinfo(pixels.dtype).max)
    return planar


def parse_background(text: str) -> tuple[int, int, int]:
    """An 8-bit RGB colour from its CSS name or hexadecimal form ("white", "#808080").

    Raises:
        ValueError: not a colour.
    """
    try:
        colour = PIL.ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(
            f"background: expected a colour such as 'white' or '#808080', got {text!r}"
        ) from None
    return colour[0], colour[1], colour[2]


def _read_bytes(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: {_EXPECTED}, got something that is not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {status.st_size}")
    return path.read_bytes()


def _decode(data: bytes, path: Path, background: tuple[int, int, int]) -> Image:
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as file:
        file_format, mode = str(file.format), file.mode
        _check_size(file)
        _check_frames(file)
        bits = _bits_per_sample(file, data)
        tags = dict(getattr(file, "tag_v2", {}))
        orientation = _orientation(file)
        file.load()
        if bits == 16:
            pixels, alpha = _decode_16bit(file, data, tags, background)
            # OpenCV applies the orientation of TIFF files only, and only the tag of that name.
            upright = tags.get(_ORIENTATION, 1) != 1
        else:
            pixels, alpha = _decode_8bit(file, bits, background)
            # Loading a TIFF applies its orientation and removes the tag.
            upright = _orientation(file) == 1
        icc = file.info.get("icc_profile")
    return Image(
        pixels=np.ascontiguousarray(pixels if upright else _turn(pixels, orientation)),
        path=path,
        format=file_format,
        mode=mode,
        bits=bits,
        orientation=orientation,
        alpha=alpha,
        icc=hashlib.sha256(icc).hexdigest() if icc else None,
    )


def _check_size(file: PIL.Image.Image) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    width, height = file.size
    if limit is not None and width * height > limit:
        raise ValueError(f"expected at most {limit} pixels, got {width} x {height}")


def _check_frames(file: PIL.Image.Image) -> None:
    frames = getattr(file, "n_frames", 1)
    # The first image of an MPO is the photograph; the others are previews and depth or gain maps.
    if frames != 1 and file.format != "MPO":
        raise ValueError(f"expected a single image, got an animation or a document of {frames} pages")


def _bits_per_sample(file: PIL.Image.Image, data: bytes) -> int:
    if file.format == "PNG":
        return data[24]
    if file.format != "TIFF":
        return 1 if file.mode == "1" else 8
    tags: Any = file.tag_v2  # type: ignore[attr-defined]
    bits = set(np.atleast_1d(tags.get(258, 1)).tolist())
    formats = set(np.atleast_1d(tags.get(339, 1)).tolist())
    if formats != {1}:
        raise ValueError("expected unsigned integer samples, got a floating-point or signed TIFF")
    if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16}:
        raise ValueError(f"expected 8 or 16 bits per sample, got {sorted(bits)}")
    return int(bits.pop())


def _orientation(file: PIL.Image.Image) -> int:
    value = file.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as stored to pixels as seen (EXIF 2.32, table 6)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _decode_8bit(
    file: PIL.Image.Image, bits: int, background: tuple[int, int, int]
) -> tuple[np.ndarray, bool]:
    if file.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"expected grey, palette, RGB or CMYK pixels, got Pillow's mode {file.mode!r}")
    if not file.has_transparency_data:
        return np.asarray(file.convert("RGB")), False
    transparent = file.info.get("transparency")
    if bits < 8 and file.mode in ("1", "L") and isinstance(transparent, int) and transparent < 2**bits:
        # Pillow stretches greys of fewer bits to 8, but, except for 1 bit in its later versions, not the
        # grey that stands for transparent. A stretched one other than 0 is never as small as this.
        file.info["transparency"] = transparent * (255 // (2**bits - 1))
    rgba = np.asarray(file.convert("RGBA"))
    return _composite(rgba[..., :3], rgba[..., 3], background), True


def _decode_16bit(
    file: PIL.Image.Image, data: bytes, tags: dict[int, Any], background: tuple[int, int, int]
) -> tuple[np.ndarray, bool]:
    # Imported here: most runs see no 16-bit image.
    import cv2

    if file.format == "TIFF":
        _check_tiff_layout(tags)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[1::-1] != file.size:
        raise ValueError(f"expected 16-bit pixels that OpenCV can decode, got a {file.format} that it cannot")
    if decoded.ndim == 2:
        return _grey_16bit(decoded, file, tags, background)
    rgb = decoded[..., 2::-1]
    # A fourth sample that the TIFF does not declare to be alpha is not alpha; Pillow drops it as well.
    has_alpha = decoded.shape[2] == 4 and (file.format == "PNG" or file.mode == "RGBA")
    if not has_alpha:
        return rgb, False
    premultiplied = 1 in np.atleast_1d(tags.get(338, 0))
    return _composite(rgb, decoded[..., 3], background, premultiplied=premultiplied), True


def _check_tiff_layout(tags: dict[int, Any]) -> None:
    photometric, samples, planar = tags.get(262, 0), tags.get(277, 1), tags.get(284, 1)
    if (photometric, samples) not in ((0, 1), (1, 1), (2, 3), (2, 4)) or planar != 1:
        raise ValueError(
            "expected a 16-bit TIFF of interleaved grey, RGB or RGBA samples, got photometric "
            f"interpretation {photometric}, {samples} samples per pixel, planar configuration {planar}"
        )


def _grey_16bit(
    grey: np.ndarray, file: PIL.Image.Image, tags: dict[int, Any], background: tuple[int, int, int]
) -> tuple[np.ndarray, bool]:
    if file.format == "TIFF" and tags.get(262, 0) == 0:  # white is zero
        grey = np.uint16(65535) - grey
    rgb = np.repeat(grey[..., None], 3, axis=2)
    transparent = file.info.get("transparency")
    if file.format != "PNG" or not isinstance(transparent, int):
        return rgb, False
    alpha = np.where(grey == transparent, 0, 65535).astype(np.uint16)
    return _composite(rgb, alpha, background), True


def _composite(
    rgb: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int], *, premultiplied: bool = False
) -> np.ndarray:
    """rgb alpha + background (1 - alpha), rounded to nearest, in exact integers."""
    top = np.uint32(np.iinfo(rgb.dtype).max)
    behind = np.asarray(background, dtype=np.uint32) * (top // np.uint32(255))
    opacity = alpha[..., None].astype(np.uint32)
    # The largest sum, 65535 * 65535 + 32767, still fits 32 bits.
    front = rgb.astype(np.uint32) * (top if premultiplied else opacity)
    if premultiplied:
        # Samples above their alpha are invalid; this keeps them from wrapping around.
        front = np.minimum(front, opacity * top)
    return ((front + behind * (top - opacity) + top // np.uint32(2)) // top).astype(rgb.dtype)
