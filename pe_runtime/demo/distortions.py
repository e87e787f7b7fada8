"""Distortions of known strength, by Pillow, for demonstrations, tests and benchmarks."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


def blur(photo: Image.Image, sigma: float) -> Image.Image:
    """Gaussian blur with a standard deviation of `sigma` pixels."""
    return photo.filter(ImageFilter.GaussianBlur(sigma))


def noise(photo: Image.Image, sigma: float) -> Image.Image:
    """White Gaussian noise with a standard deviation of `sigma` 8-bit code values, the same at every call."""
    pixels = np.asarray(photo, dtype=np.float64)
    drawn = np.random.default_rng(0).standard_normal(pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + sigma * drawn), 0, 255).astype(np.uint8))


def jpeg(photo: Image.Image, quality: float) -> Image.Image:
    """JPEG compression at a quality from 1 (worst) to 95."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=int(quality))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def resample(photo: Image.Image, factor: float) -> Image.Image:
    """Reduction by `factor` and enlargement to the old size, both bicubic."""
    small = (max(1, round(photo.width / factor)), max(1, round(photo.height / factor)))
    return photo.resize(small, Image.Resampling.BICUBIC).resize(photo.size, Image.Resampling.BICUBIC)


DISTORTIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "blur": (blur, (0.8, 1.5, 2.5, 4.0)),
    "noise": (noise, (4, 8, 16, 32)),
    "jpeg": (jpeg, (80, 40, 20, 8)),
    "resample": (resample, (1.5, 2, 3, 4)),
}
"""Name -> function of an RGB photograph and a strength, and strengths from mild to strong."""
