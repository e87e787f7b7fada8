"""What the pixels of a file mean as colours, and their conversion to sRGB by its ICC profile."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image

#: Modes of `read_image` and the gate: colours as sRGB, or as the file stores them.
COLOURS = ("srgb", "stored")

_SRGB_GAMMA = 45455
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
# What encoders round these to differs in the third digit.
_TOLERANCE = 500
_SRGB_CICP = (1, 13, 0, 1)


@dataclass(frozen=True)
class Colour:
    """How a file describes its colours. Two are equal if its words and its profile's bytes are.

    Attributes:
        words: "sRGB", also for a file that says nothing, "ICC profile", "gAMA 1", "cHRM",
            "gAMA 1 and cHRM" or "cICP 9/16/0/1".
        numbers: the numbers of gAMA, cHRM or cICP as stored; empty otherwise.
        icc: the ICC profile; empty without one.
    """

    words: str = "sRGB"
    numbers: tuple[int, ...] = ()
    icc: bytes = b""

    @property
    def convertible(self) -> bool:
        """Whether it is sRGB, or a profile that says how to get there."""
        return bool(self.icc) or self.words == "sRGB"

    @property
    def icc_hash(self) -> str | None:
        """SHA-256 of the ICC profile; None without one."""
        return hashlib.sha256(self.icc).hexdigest() if self.icc else None


SRGB = Colour()


def described(
    *,
    icc: bytes = b"",
    cicp: tuple[int, ...] | None = None,
    srgb: bool = False,
    gamma: int | None = None,
    chromaticities: tuple[int, ...] | None = None,
) -> Colour:
    """The description that counts among those that a file has.

    Args:
        icc: its ICC profile, which goes before all else.
        cicp: the four numbers of a cICP chunk.
        srgb: whether it has an sRGB chunk.
        gamma: gAMA, times 100,000.
        chromaticities: the eight numbers of cHRM, times 100,000.
    """
    if icc:
        return Colour("ICC profile", (), icc)
    if cicp is not None:
        return SRGB if cicp == _SRGB_CICP else Colour("cICP " + "/".join(map(str, cicp)), cicp)
    if srgb:
        return SRGB
    near = [
        value is None or all(abs(a - b) <= _TOLERANCE for a, b in zip(value, usual, strict=True))
        for value, usual in (
            (None if gamma is None else (gamma,), (_SRGB_GAMMA,)),
            (chromaticities, _SRGB_CHROMATICITIES),
        )
    ]
    if all(near):
        return SRGB
    words: list[str] = []
    numbers: tuple[int, ...] = ()
    if gamma is not None:
        words, numbers = [f"gAMA {gamma / 100_000:g}"], (gamma,)
    if chromaticities is not None:
        words, numbers = [*words, "cHRM"], (*numbers, *chromaticities)
    return Colour(" and ".join(words), numbers)


class ProfileError(ValueError):
    """Colours that cannot be converted to sRGB; the message is the reason alone."""


def converter(icc: bytes, space: str) -> Callable[[np.ndarray], np.ndarray]:
    """The conversion of 8-bit pixels to sRGB: relative colorimetric, without black-point compensation.

    Args:
        icc: the profile of the pixels.
        space: what they are: "RGB", "GRAY" or "CMYK", which is not converted.

    Returns:
        A function of (H, W, 3) or grey (H, W) uint8 that gives (H, W, 3) uint8.

    Raises:
        ProfileError: littlecms cannot read the profile, or it is for pixels of another kind.
    """
    # Imported here: most images carry no profile, or equal ones.
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError, ValueError):
        raise ProfileError("littlecms cannot read it") from None
    try:
        fits = space != "CMYK" and profile.profile.xcolor_space.strip() == space
    except UnicodeDecodeError:  # the four bytes that name it are no text
        fits = False
    if not fits:
        raise ProfileError("its colour space does not fit the pixels")
    mode = "L" if space == "GRAY" else "RGB"
    try:
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.NOCACHE,
        )
    except (OSError, ImageCms.PyCMSError, ValueError):
        raise ProfileError("littlecms cannot read it") from None

    def convert(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(transform.apply(PIL.Image.fromarray(np.ascontiguousarray(pixels), mode)))

    return convert


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """uint16 as uint8, rounded to nearest: 65535 = 255 * 257, and 257 is odd, so nothing is halfway."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
