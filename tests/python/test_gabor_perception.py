"""The gabor distance puts stronger distortions further away, on every photograph."""

import io
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from pe_runtime.backbones.gabor import GABOR_TAPS, build_gabor

FULL = build_gabor(dict.fromkeys(GABOR_TAPS))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    return image + np.random.default_rng(0).normal(0, deviation, image.shape)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(stream, format="JPEG", quality=int(quality))
    return np.asarray(Image.open(stream).convert("RGB")) / 255


def resampled(image: np.ndarray, factor: float) -> np.ndarray:
    full = Image.fromarray(to_bytes(image))
    small = full.resize((round(full.width / factor), round(full.height / factor)), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(full.size, Image.Resampling.BICUBIC)) / 255


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


LEVELS: dict[Callable[[np.ndarray, float], np.ndarray], list[float]] = {
    blurred: [0.5, 0.8, 1.2, 1.8, 2.7, 4],
    noisy: [0.01, 0.02, 0.04, 0.08, 0.16],
    jpeg: [90, 75, 50, 30, 15, 7],
    resampled: [1.5, 2, 3, 4, 6, 8],
}


def orders_all_levels(image: np.ndarray) -> Iterator[tuple[str, list[float]]]:
    reference = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        features = FULL(reference)
        for distort, levels in LEVELS.items():
            distances = []
            for level in levels:
                distorted = (
                    torch.from_numpy(to_bytes(distort(image, level)) / 255).permute(2, 0, 1)[None].float()
                )
                other = FULL(distorted)
                distances.append(
                    float(sum((features[t] - other[t]).square().mean() for t in GABOR_TAPS) / len(GABOR_TAPS))
                )
            yield distort.__name__, distances


@pytest.mark.parametrize("number", range(1, 25))
def test_orders_levels_on_every_kodak_image(shared, number):
    path = shared / "images" / "kodak" / f"kodim{number:02d}.png"
    image = np.asarray(Image.open(path).convert("RGB"))[128:384, 256:512] / 255
    for name, distances in orders_all_levels(image):
        assert distances[0] > 0
        assert all(a < b for a, b in pairwise(distances)), (name, distances)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_orders_levels_on_photographs_of_scikit_image(name):
    data = pytest.importorskip("skimage.data")
    image = getattr(data, name)()[20:276, 20:276, :3] / 255
    for distortion, distances in orders_all_levels(image):
        assert all(a < b for a, b in pairwise(distances)), (distortion, distances)
