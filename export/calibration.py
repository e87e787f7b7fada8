"""Pairs of photographs, from which the ranges of an int8 backbone are taken and its drift is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pe_runtime.demo.distortions import blur, jpeg
from pe_runtime.gate.images import read_image

CalibrationImage = str | os.PathLike[str] | np.ndarray
Calibration = str | os.PathLike[str] | Sequence[tuple[CalibrationImage, CalibrationImage]]

SIDE = 256
"""Images are cut to the middle, at most this many pixels high and wide."""
PHOTOGRAPHS = 16
"""Of a folder at most this many photographs are used, spread over its names."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def calibration_pairs(calibration: Calibration, min_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reference and distorted pixels, (H, W, 3) uint8 each.

    Args:
        calibration: pairs of images, files or uint8 arrays; or a folder of photographs, which are compared
            with themselves as JPEG of quality 20, and blurred by 1.5 pixels, in turn.
        min_size: least height and width.

    Raises:
        ValueError: no images, or images that cannot be read, are too small, or differ in size within a pair.
        OSError: a file or the folder cannot be read.
    """
    if isinstance(calibration, str | os.PathLike):
        references = [_middle(_pixels(path)) for path in _spread(Path(calibration))]
        pairs = [(pixels, _distorted(pixels, number)) for number, pixels in enumerate(references)]
    else:
        pairs = [(_middle(_pixels(first)), _middle(_pixels(second))) for first, second in calibration]
    if not pairs:
        raise ValueError("calibration: expected at least one pair of images, got none")
    for first, second in pairs:
        if first.shape != second.shape or min(first.shape[:2]) < min_size:
            raise ValueError(
                f"calibration: expected pairs of one size, of at least {min_size} pixels, "
                f"got {first.shape[1]} x {first.shape[0]} and {second.shape[1]} x {second.shape[0]}"
            )
    return pairs


def _spread(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"calibration: expected photographs in {str(folder)!r}, found none")
    count = min(len(paths), PHOTOGRAPHS)
    return [paths[number * len(paths) // count] for number in range(count)]


def _pixels(image: CalibrationImage) -> np.ndarray:
    pixels = image if isinstance(image, np.ndarray) else read_image(image).pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"calibration: expected uint8 images of shape (H, W, 3), got {pixels.dtype} of {pixels.shape}"
        )
    return pixels


def _middle(pixels: np.ndarray) -> np.ndarray:
    top, left = (max(0, (size - SIDE) // 2) for size in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])


def _distorted(pixels: np.ndarray, number: int) -> np.ndarray:
    photo = Image.fromarray(pixels)
    return np.asarray(blur(photo, 1.5) if number % 2 else jpeg(photo, 20))
