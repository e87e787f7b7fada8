"""The demonstration's photographs, and the files that the gate compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pe_runtime.atomic import atomic_path
from pe_runtime.demo.distortions import DISTORTIONS

SIDE = 256
"""Photographs are reduced and cut to this many pixels squared: the contextual loss compares all
pairs of positions, and the demonstration should be short."""

_SKIMAGE = ("astronaut", "camera", "chelsea", "coffee", "rocket")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load_photographs(folder: Path | None) -> dict[str, Image.Image]:
    """The photographs of a folder, or those that come with scikit-image, as small squares.

    Args:
        folder: with image files; None: scikit-image's.

    Returns:
        Name -> RGB photograph of SIDE x SIDE pixels.

    Raises:
        ImportError: no folder, and scikit-image is not installed.
        ValueError: no photograph of at least SIDE x SIDE pixels in the folder, or one that cannot be read.
    """
    if folder is None:
        return {name: _square(photo) for name, photo in _skimage_photographs().items()}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    photographs = {path.stem: _square(_read(path)) for path in paths}
    if not photographs:
        raise ValueError(f"images: expected photographs in {str(folder)!r}, found none")
    return photographs


def write_pairs(photographs: dict[str, Image.Image], folder: Path) -> None:
    """Write reference/NAME.png and DISTORTION-LEVEL/NAME.png for every strength, level 1 the mildest.

    Raises:
        OSError: a file cannot be written.
    """
    for name, photo in photographs.items():
        _save(photo, folder / "reference" / f"{name}.png")
        for distortion, (distort, strengths) in DISTORTIONS.items():
            for level, strength in enumerate(strengths, start=1):
                _save(distort(photo, strength), folder / f"{distortion}-{level}" / f"{name}.png")


def _skimage_photographs() -> dict[str, Image.Image]:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "images: expected a folder, or scikit-image: pip install 'pe_runtime[demo]'"
        ) from error
    return {name: Image.fromarray(np.asarray(getattr(data, name)())) for name in _SKIMAGE}


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, ValueError) as error:
        raise ValueError(f"images: expected a photograph, could not read {str(path)!r}: {error}") from error


def _square(photo: Image.Image) -> Image.Image:
    if min(photo.size) < SIDE:
        raise ValueError(
            f"images: expected at least {SIDE} x {SIDE} pixels, got {photo.width} x {photo.height}"
        )
    return ImageOps.fit(photo.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)


def _save(photo: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        photo.save(temporary, "PNG")
