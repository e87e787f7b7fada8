"""Image files as RGB arrays: what the pixels of a PNG, JPEG, WebP, BMP or TIFF mean to a metric."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ImageColor

from pe_runtime.gate.colour import COLOURS, SRGB, Colour, ProfileError, converter, to_8_bits
from pe_runtime.gate.decoding import ImageFile, Samples, blocks, open_image

#: Mid-grey. Over white (or black) a defect in white (or black) content vanishes against the background,
#: and such content is common in images with alpha; mid-grey differs from both by as much as possible.
DEFAULT_BACKGROUND = (128, 128, 128)

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Image:
    """The pixels of an image file as they are meant to be seen, and what was done to get them.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, the full range of the type. Orientation is applied, alpha
            is composited over the background, grey is replicated.
        opposite: the same over the colour opposite to the background; None where every pixel is opaque.
        path: where it was read from.
        format: "PNG", "JPEG", "MPO" (a JPEG with further images, of which the first is read), "WEBP",
            "BMP" or "TIFF".
        mode: Pillow's name for the pixel layout in the file ("RGB", "L", "P", "I;16", "CMYK", ...).
        bits: bits per sample in the file, as far as it says: 1, 2, 4, 8 or 16.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        alpha: whether the file has transparency.
        colour: how the colours of `pixels` are described.
        damaged_exif: whether the file's EXIF block is damaged, and ignored.
    """

    pixels: np.ndarray
    opposite: np.ndarray | None
    path: Path
    format: str
    mode: str
    bits: int
    orientation: int
    alpha: bool
    colour: Colour
    damaged_exif: bool

    @property
    def icc(self) -> str | None:
        """SHA-256 of the ICC profile that describes `pixels`; None without one."""
        return self.colour.icc_hash


def read_image(
    path: str | os.PathLike[str], *, background: RGB = DEFAULT_BACKGROUND, colour: str = "stored"
) -> Image:
    """Decode one image file; what it holds is found from its content, not from its name.

    Args:
        path: a PNG, JPEG, WebP, BMP or TIFF file, with 1 to 8 or 16 bits per sample.
        background: 8-bit RGB that transparent pixels are composited over.
        colour: "stored": colours as the file has them; "srgb": an ICC profile is applied, which makes
            pixels of 8 bits.

    Returns:
        The image, its pixels RGB of 8 or 16 bits.

    Raises:
        ValueError: not one of the five formats; truncated or damaged; animated or with several pages;
            floating-point, signed, or of another depth; more pixels than `PIL.Image.MAX_IMAGE_PIXELS`;
            colours that cannot be converted; another `colour`. The error names the file.
        OSError: the file cannot be read.
    """
    check_colour(colour)
    file = open_image(path)
    if colour == "srgb" and not file.colour.convertible:
        raise ValueError(f"{path}: expected sRGB or an ICC profile, got {file.colour.words}")
    samples = file.decode()
    if colour == "srgb" and file.colour.icc:
        try:
            return _seen(file, _converted(file, samples), background, SRGB)
        except ProfileError as error:
            raise ValueError(f"{path}: the ICC profile cannot be converted to sRGB: {error}") from error
    return _seen(file, samples, background, file.colour)


def read_pair(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    background: RGB = DEFAULT_BACKGROUND,
    colour: str = "srgb",
) -> tuple[Image, Image, tuple[str, ...]]:
    """Decode two images that are to be compared.

    What their headers show to be incomparable is refused before a pixel is decoded.

    Args:
        reference: an image file as for `read_image`.
        candidate: another.
        background: 8-bit RGB that transparent pixels are composited over.
        colour: "srgb": where the two describe their colours differently, ICC profiles are applied, and other
            descriptions are an error; "stored": the stored values are compared.

    Returns:
        Both images, of the same size, and warnings: what was done to them, or found in them, that
        the caller may not expect.

    Raises:
        ValueError: a file that cannot be opened or is refused; sizes that differ; colours that cannot be
            compared; another `colour`.
    """
    check_colour(colour)
    files = {"reference": _opened(reference, "reference"), "candidate": _opened(candidate, "candidate")}
    first, second = files["reference"], files["candidate"]
    if {first.width, first.height} != {second.width, second.height}:
        raise _size_error((first.width, first.height), (second.width, second.height))
    differ = first.colour != second.colour
    if differ and colour == "srgb":
        check_same_colours(first.colour, second.colour)
    samples = {side: _decoded(file, side) for side, file in files.items()}
    check_same_size(*(_seen_size(file) for file in files.values()))
    warnings = []
    if first.path.samefile(second.path):
        warnings.append("reference and candidate are the same file")
    colours = {side: file.colour for side, file in files.items()}
    if differ and colour == "stored":
        words = f"{first.colour.words} and {second.colour.words}"
        warnings.append(f"the colours are described differently ({words}), and are compared as stored")
    elif differ:
        for side, file in files.items():
            if file.colour.icc:
                warnings += _conversion_warnings(samples[side], side)
                samples[side] = _converted_side(file, samples[side], side)
                colours[side] = SRGB
    images = {side: _seen(file, samples.pop(side), background, colours[side]) for side, file in files.items()}
    return images["reference"], images["candidate"], (*warnings, *_pair_warnings(**images))


def check_colour(colour: str) -> None:
    """Refuse what is no way to compare colours.

    Raises:
        ValueError: not one of COLOURS.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour: expected one of {', '.join(map(repr, COLOURS))}, got {colour!r}")


def check_same_colours(first: Colour, second: Colour) -> None:
    """Refuse colours that are described differently, and not both by ICC profiles or as sRGB.

    Raises:
        ValueError: they are.
    """
    if first != second and not (first.convertible and second.convertible):
        raise ValueError(
            f"the colours of reference and candidate are described differently ({first.words} and "
            f"{second.words}), and only ICC profiles can be converted; "
            "--colour stored compares the stored values"
        )


def check_same_size(first: tuple[int, int], second: tuple[int, int]) -> None:
    """Refuse images of different sizes.

    Args:
        first: width and height.
        second: the same of the other.

    Raises:
        ValueError: they differ.
    """
    if first != second:
        raise _size_error(first, second)


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


def rounded_to_8_bits(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) uint16 as uint8, x / 257, rounded to nearest."""
    rounded = np.empty(values.shape, np.uint8)
    for part in blocks(*values.shape[:2]):
        rounded[part] = to_8_bits(values[part])
    return rounded


def parse_background(text: str) -> RGB:
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


def _opened(path: str | os.PathLike[str], side: str) -> ImageFile:
    try:
        return open_image(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{side}: {error}") from error


def _decoded(file: ImageFile, side: str) -> Samples:
    try:
        return file.decode()
    except ValueError as error:
        raise ValueError(f"{side}: {error}") from error


def _size_error(first: tuple[int, int], second: tuple[int, int]) -> ValueError:
    return ValueError(
        "reference and distorted: expected the same width and height, "
        f"got {first[0]} x {first[1]} and {second[0]} x {second[1]}"
    )


def _seen_size(file: ImageFile) -> tuple[int, int]:
    return (file.height, file.width) if file.orientation >= 5 else (file.width, file.height)


def _conversion_warnings(samples: Samples, side: str) -> Iterator[str]:
    if samples.rgb.dtype == np.uint16:
        yield f"the 16-bit pixels of the {side} are rounded to 8 bits to be converted"
    yield f"the colours of the {side} are converted from its ICC profile to sRGB"


def _converted_side(file: ImageFile, samples: Samples, side: str) -> Samples:
    try:
        return _converted(file, samples)
    except ProfileError as error:
        raise ValueError(f"the ICC profile of the {side} cannot be converted to sRGB: {error}") from error


def _converted(file: ImageFile, samples: Samples) -> Samples:
    """The samples in sRGB, of 8 bits, by the profile of the file."""
    if file.premultiplied and samples.alpha is not None:
        raise ProfileError("the pixels are premultiplied")
    convert = converter(file.colour.icc, samples.space)
    rgb, alpha = samples.rgb, samples.alpha
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = rounded_to_8_bits(alpha)
    converted = np.empty(rgb.shape, np.uint8)
    for part in blocks(*rgb.shape[:2]):
        stored = rgb[part] if rgb.dtype == np.uint8 else to_8_bits(rgb[part])
        converted[part] = convert(stored[..., 0] if samples.space == "GRAY" else stored)
    return replace(samples, rgb=converted, alpha=alpha)


def _pair_warnings(reference: Image, candidate: Image) -> Iterator[str]:
    if reference.alpha != candidate.alpha:
        yield f"only the {'reference' if reference.alpha else 'candidate'} has transparency"
    for side, image in (("reference", reference), ("candidate", candidate)):
        if image.damaged_exif:
            yield f"the EXIF data of the {side} is damaged and is ignored"
        if image.format == "MPO":
            yield f"the {side} holds several images, of which the first is judged"
        if image.mode == "CMYK":
            yield f"the {side} is CMYK, converted without a colour profile"


def _seen(file: ImageFile, samples: Samples, background: RGB, colour: Colour) -> Image:
    alpha = samples.alpha
    if alpha is None or alpha.min() == np.iinfo(alpha.dtype).max:
        pixels, opposite = _opaque(samples.rgb, file.orientation), None
    else:
        pixels, opposite = _over(samples, alpha, file.orientation, background)
    return Image(
        pixels=pixels,
        opposite=opposite,
        path=file.path,
        format=file.format,
        mode=samples.mode,
        bits=file.bits,
        orientation=file.orientation,
        alpha=alpha is not None,
        colour=colour,
        damaged_exif=file.damaged_exif,
    )


def _opaque(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The colours alone, upright."""
    if orientation == 1 and rgb.flags.c_contiguous:
        return rgb
    upright, stored = _made_upright(rgb, orientation)
    for part in blocks(*rgb.shape[:2]):
        stored[part] = rgb[part]
    return upright


def _over(
    samples: Samples, alpha: np.ndarray, orientation: int, background: RGB
) -> tuple[np.ndarray, np.ndarray]:
    """rgb alpha + background (1 - alpha), upright; and the same over the opposite colour.

    Rounded to nearest, in exact integers.
    """
    rgb = samples.rgb
    bits = 8 * rgb.itemsize
    # The largest sum, top * top + top / 2 + 1, and what is added to divide it, fit twice the bits.
    wide: Any = np.uint16 if bits == 8 else np.uint32
    top = wide(2**bits - 1)
    # Each component of the opposite is as far away as it can be.
    behind = [(wide(c * (int(top) // 255)), wide(top if c < 128 else 0)) for c in background]
    results = [_made_upright(rgb, orientation) for _ in range(2)]
    for part in blocks(*rgb.shape[:2]):
        opacity = alpha[part].astype(wide)
        clear = top - opacity
        for channel in range(3):
            front = rgb[part][..., channel].astype(wide)
            if samples.premultiplied:
                # Samples above their alpha are invalid; this keeps them from wrapping around.
                front = np.minimum(front, opacity) * top
            else:
                front *= opacity
            front += top // wide(2) + wide(1)
            for (_, stored), colour in zip(results, behind[channel], strict=True):
                total = front + clear * colour
                # (x + (x >> bits)) >> bits is (x - 1) // top, for all such x.
                total += total >> wide(bits)
                stored[part][..., channel] = total >> wide(bits)
    return results[0][0], results[1][0]


def _made_upright(rgb: np.ndarray, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for pixels seen upright, and a view of it in the order in which they are stored."""
    height, width = rgb.shape[:2]
    upright = np.empty((width, height, 3) if orientation >= 5 else rgb.shape, rgb.dtype)
    stored = upright
    # EXIF 2.32, table 6.
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    return upright, stored.swapaxes(0, 1) if orientation >= 5 else stored
