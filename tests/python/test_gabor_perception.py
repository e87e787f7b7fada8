"""The gabor distance puts stronger distortions further away, on every photograph; how large distances are."""

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from pe_runtime.backbones.gabor import GABOR_TAPS, build_gabor

pytestmark = pytest.mark.usefixtures("one_thread")

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


def shifted(image: np.ndarray, amount: float) -> np.ndarray:
    return image + amount


def cast(image: np.ndarray, amount: float) -> np.ndarray:
    """Warmer, as by a wrong white balance."""
    return image * [1 + amount, 1, 1 - amount]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


LEVELS: dict[Callable[[np.ndarray, float], np.ndarray], list[float]] = {
    blurred: [0.5, 0.8, 1.2, 1.8, 2.7, 4],
    noisy: [0.01, 0.02, 0.04, 0.08, 0.16],
    jpeg: [90, 75, 50, 30, 15, 7],
    resampled: [1.5, 2, 3, 4, 6, 8],
    shifted: [0.02, 0.05, 0.1, 0.2],
    cast: [0.02, 0.05, 0.1, 0.2],
}


def features_of(image: np.ndarray) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return FULL(torch.from_numpy(image).permute(2, 0, 1)[None].float())


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Eq. 1 per tap, averaged over the taps."""
    return float(sum((first[tap] - second[tap]).square().mean() for tap in GABOR_TAPS) / len(GABOR_TAPS))


def orders_all_levels(image: np.ndarray) -> Iterator[tuple[str, list[float]]]:
    features = features_of(image)
    for distort, levels in LEVELS.items():
        distances = [
            distance(features, features_of(to_bytes(distort(image, level)) / 255)) for level in levels
        ]
        yield distort.__name__, distances


def crop_of_kodak(shared: Path, number: int) -> np.ndarray:
    path = shared / "images" / "kodak" / f"kodim{number:02d}.png"
    return np.asarray(Image.open(path).convert("RGB"))[176:336, 304:464] / 255


@pytest.mark.parametrize("number", range(1, 25))
def test_orders_levels_on_every_kodak_image(shared, number):
    for name, distances in orders_all_levels(crop_of_kodak(shared, number)):
        assert distances[0] > 0
        assert all(a < b for a, b in pairwise(distances)), (name, distances)


def test_a_shift_of_a_tenth_is_like_jpeg_of_quality_40(shared):
    """The rule for the luminance gain (docs/gabor.md), there measured on all images, whole."""
    compressed, brightened = [], []
    for number in range(1, 25):
        image = crop_of_kodak(shared, number)
        compressed.append(distance(features_of(image), features_of(jpeg(image, 40))))
        image = 0.1 + 0.8 * image  # so that the shift does not clip
        brightened.append(distance(features_of(image), features_of(shifted(image, 0.1))))
    assert max(brightened) == pytest.approx(min(brightened), rel=1e-3)
    assert np.median(brightened) == pytest.approx(np.median(compressed), rel=0.25)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_orders_levels_on_photographs_of_scikit_image(name):
    data = pytest.importorskip("skimage.data")
    image = getattr(data, name)()[20:180, 100:260, :3] / 255
    for distortion, distances in orders_all_levels(image):
        assert all(a < b for a, b in pairwise(distances)), (distortion, distances)
