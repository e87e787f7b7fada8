"""One pair of images, one score, one verdict: an exported metric run by ONNX Runtime."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from pe_runtime.gate.images import (
    Image,
    as_float,
    check_colour,
    check_same_colours,
    check_same_size,
    read_image,
    read_pair,
    rounded_to_8_bits,
)
from pe_runtime.gate.metric_file import MetricFile, read_metric
from pe_runtime.ort import DOMAIN, open_session

_ImageLike = Image | np.ndarray | str | os.PathLike[str]

#: A score this far below 0 is a rounding error of float32 and counts as 0; one further below is refused.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Verdict:
    """What a metric said of a pair.

    Attributes:
        score: the distance, >= 0; larger is worse. The shortest decimal that stands for the float32
            that the metric computed, so that a score prints, and compares to a threshold, as one reads it.
        threshold: the largest score that passes.
        map: (h, w) float32, where the images differ, larger is worse; None unless it was asked for.
        warnings: what was done to the images that the caller may not expect.
    """

    score: float
    threshold: float
    map: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the score is at most the threshold."""
        return self.score <= self.threshold


class Judge:
    """A metric, loaded once, and a threshold.

    Args:
        metric: an ONNX file written by `pe-runtime export`.
        threshold: the largest score that passes; None is the one in the metric's metadata.
        maps: also return difference maps.
        threads: threads that ONNX Runtime computes one score with; 0 is one per core. Scores of different
            thread counts differ by rounding at most.
        provider: where ONNX Runtime computes: "cpu", "cuda" or another of its execution providers.
        colour: what becomes of files that describe their colours differently. "srgb": ICC profiles are
            applied, other descriptions are an error; "stored": the stored values are compared.

    Raises:
        ValueError: the file is no metric, or cannot be loaded by the provider; no threshold, or not a
            finite number >= 0; maps from a metric without; an unknown provider, thread count or colour.
        OSError: the file cannot be read.
        ModuleNotFoundError: ONNX Runtime is not installed.

    One judge may be used from several threads.
    """

    def __init__(
        self,
        metric: str | os.PathLike[str],
        threshold: float | None = None,
        *,
        maps: bool = False,
        threads: int = 0,
        provider: str = "cpu",
        colour: str = "srgb",
    ) -> None:
        check_colour(colour)
        self.colour = colour
        if threads < 0:
            raise ValueError(f"threads: expected 0 (one per core) or more, got {threads}")
        self.metric: MetricFile = read_metric(metric)
        self.metric.check_contract()
        self.threshold = _checked_threshold(threshold, self.metric)
        if maps and not self.metric.has_map:
            raise ValueError(f"{self.metric.path}: expected a metric with an output map, got one without")
        self._outputs = ["score", "map"] if maps else ["score"]
        fused = "auto" if DOMAIN in self.metric.opsets else False
        self._session = open_session(
            self.metric.data, threads=threads, provider=provider, fused=fused, name=str(self.metric.path)
        )

    def score(
        self,
        reference: _ImageLike,
        distorted: _ImageLike,
    ) -> Verdict:
        """Compare two images; the result depends on nothing but the two.

        Images with pixels that are not opaque are compared over the background and over the colour opposite
        to it (files: mid-grey and black), and the worse score counts.

        Args:
            reference: what it should look like: an image file, an `Image`, or an array (H, W, 3) of RGB,
                uint8 or uint16, which is taken as it is.
            distorted: what is judged, of the same size.

        Returns:
            The score and whether it passes.

        Raises:
            ValueError: sizes that differ or are too small for the metric; a file that `read_image`
                refuses; two images whose colours are described differently; the metric failed, or gave a
                score that is negative or not finite.
            TypeError: an array of another type.
        """
        warnings: tuple[str, ...] = ()
        if isinstance(reference, str | os.PathLike) and isinstance(distorted, str | os.PathLike):
            reference, distorted, warnings = read_pair(reference, distorted, colour=self.colour)
        reference, distorted = _loaded(reference, "reference"), _loaded(distorted, "distorted")
        if isinstance(reference, Image) and isinstance(distorted, Image):
            self._check_colours(reference, distorted)
        images = [_pixels(reference, "reference"), _pixels(distorted, "distorted")]
        first, second = (pixels.shape for pixels, _ in images)
        check_same_size((first[1], first[0]), (second[1], second[0]))
        if min(first[:2]) < self.metric.min_size:
            raise ValueError(
                f"reference and distorted: expected width and height of at least {self.metric.min_size}, "
                f"got {first[1]} x {first[0]}"
            )
        score, found = self._compare([pixels for pixels, _ in images])
        if any(opposite is not None for _, opposite in images):
            over = self._compare([pixels if opposite is None else opposite for pixels, opposite in images])
            score, found = over if over[0] > score else (score, found)
        return Verdict(score, self.threshold, found, warnings + self._warnings([p for p, _ in images]))

    def _check_colours(self, reference: Image, distorted: Image) -> None:
        if self.colour == "stored" or reference.colour == distorted.colour:
            return
        check_same_colours(reference.colour, distorted.colour)
        raise ValueError(
            "reference and distorted: expected colours described alike, got different ICC profiles, or one; "
            "read_image(..., colour='srgb') applies them"
        )

    def _compare(self, pair: list[np.ndarray]) -> tuple[float, np.ndarray | None]:
        tensors = [self._tensor(pixels) for pixels in pair]
        outputs = self._run(dict(zip(("reference", "distorted"), tensors, strict=True)))
        return _checked_score(outputs["score"]), _checked_map(outputs.get("map"))

    def _tensor(self, pixels: np.ndarray) -> np.ndarray:
        if self.metric.input_type == "float32":
            return as_float(pixels)[None]
        if pixels.dtype == np.uint16:
            pixels = rounded_to_8_bits(pixels)
        return np.ascontiguousarray(pixels[None])

    def _run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = self._session.run(self._outputs, tensors)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise ValueError(f"metric: expected to run on this pair, but: {_one_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _warnings(self, images: list[np.ndarray]) -> tuple[str, ...]:
        if self.metric.input_type == "uint8" and any(pixels.dtype == np.uint16 for pixels in images):
            return ("16-bit pixels rounded to 8 bits, which the metric takes",)
        return ()


def _checked_threshold(threshold: float | None, metric: MetricFile) -> float:
    if threshold is None:
        threshold = metric.threshold
    if threshold is None:
        raise ValueError(f"threshold: expected a number, because {metric.path} carries none of its own")
    if not math.isfinite(threshold) or threshold < 0:
        raise ValueError(f"threshold: expected a finite number >= 0, got {threshold}")
    return float(threshold)


def _loaded(image: _ImageLike, name: str) -> Image | np.ndarray:
    """An image that is still a file, read."""
    if not isinstance(image, str | os.PathLike):
        return image
    try:
        return read_image(image)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _pixels(image: Image | np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels over the background, and over its opposite where some are not opaque."""
    if isinstance(image, Image):
        return image.pixels, image.opposite
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        got = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"{name}: expected a file, an Image, or an array of uint8 or uint16, got {got}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name}: expected shape (H, W, 3), got {image.shape}")
    return image, None


def _checked_score(value: np.ndarray) -> float:
    if value.dtype != np.float32 or value.shape != (1,):
        raise ValueError(
            f"metric: expected one float32 score, got {value.dtype} of shape {tuple(value.shape)}"
        )
    score = value[0]
    # Written so that NaN, for which every comparison is false, is refused as well.
    if not (-ROUNDING <= score < np.inf):
        raise ValueError(f"metric: expected a finite score >= 0, got {score!s}")
    # In this order, -0.0 becomes 0.0.
    return float(str(max(np.float32(0), score)))


def _checked_map(value: np.ndarray | None) -> np.ndarray | None:
    if value is None:
        return None
    if value.dtype != np.float32 or value.ndim != 4 or value.shape[:2] != (1, 1) or value.size == 0:
        raise ValueError(
            f"metric: expected a float32 map of shape (1, 1, h, w), got {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )
    if not np.isfinite(value).all():
        raise ValueError("metric: expected a finite map, got NaN or infinity in it")
    return value[0, 0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
