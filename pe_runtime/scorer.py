"""Batches of image pairs in arrays, scored by an exported metric: what a server runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from pe_runtime.gate.judge import ROUNDING
from pe_runtime.gate.metric_file import MetricFile, read_metric
from pe_runtime.ort import open_session

#: One pair of 4096 x 4096; a backbone needs hundreds of bytes for each of them.
MAX_PIXELS = 1 << 24


class Scorer:
    """A metric, loaded once, with all that a caller can get wrong checked before it runs.

    Args:
        metric: an ONNX file written by `pe-runtime export`.
        threads: threads that ONNX Runtime computes one batch with; 0 is one per core.
        provider: where ONNX Runtime computes: "cpu", "cuda" or another of its execution providers.
        max_pixels: most pixels, batch x height x width, of a call.

    Attributes:
        metric: what the file says of itself.
        max_pixels: as given.

    Raises:
        ValueError: the file is no metric, or cannot be loaded by the provider; an option out of its range.
        OSError: the file cannot be read.
        ImportError: ONNX Runtime is not installed, or older than 1.27.

    One scorer may be used from several threads.
    """

    def __init__(
        self,
        metric: str | os.PathLike[str],
        *,
        threads: int = 0,
        provider: str = "cpu",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels: expected 1 or more, got {max_pixels}")
        self.metric: MetricFile = read_metric(metric)
        self.metric.check_contract()
        self.max_pixels = max_pixels
        self._session = open_session(
            self.metric.data, threads=threads, provider=provider, name=str(self.metric.path)
        )

    def score(
        self, reference: np.ndarray, distorted: np.ndarray, outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Compare a batch of pairs; each result depends on nothing but its pair.

        Args:
            reference: what the images should look like: (B, 3, H, W) float32 in [0, 1] or (B, H, W, 3)
                uint8, as the metric was exported.
            distorted: what is judged, of the same shape.
            outputs: names of the outputs to return; None: all that the metric has.

        Returns:
            By name: `score` (B,) float32 >= 0, and where the metric has them `map` (B, 1, h, w) float32 and
            `verdict` (B,) bool.

        Raises:
            ValueError: an array of another shape, size or range; an unknown output.
            TypeError: an array of another type.
            RuntimeError: the metric failed, or gave a score that is negative or not finite.
        """
        names = self.check_outputs(outputs)
        for name, images in (("reference", reference), ("distorted", distorted)):
            self.check_shape(name, images.shape)
            self._check_values(name, images)
        if reference.shape != distorted.shape:
            raise ValueError(
                "reference and distorted: expected one shape, "
                f"got {_written(reference.shape)} and {_written(distorted.shape)}"
            )
        try:
            values = self._session.run(names, {"reference": reference, "distorted": distorted})
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RuntimeError(f"metric: expected to run on these images, but: {reason}") from error
        return {name: _checked_output(name, value) for name, value in zip(names, values, strict=True)}

    def check_outputs(self, outputs: Sequence[str] | None) -> list[str]:
        """The names of the outputs that are asked for, each once.

        Raises:
            ValueError: one that the metric does not have.
        """
        if outputs is None:
            return list(self.metric.outputs)
        for name in outputs:
            if name not in self.metric.outputs:
                raise ValueError(f"outputs: expected among {', '.join(self.metric.outputs)}, got {name!r}")
        return list(dict.fromkeys(outputs)) or list(self.metric.outputs)

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Refuse images of a shape that the metric cannot take, before there are any.

        Raises:
            ValueError: another layout; a batch or size that is 0, too small or too large.
        """
        channels_last = self.metric.input_type == "uint8"
        layout = "(batch, height, width, 3)" if channels_last else "(batch, 3, height, width)"
        if len(shape) != 4 or shape[3 if channels_last else 1] != 3 or shape[0] < 1:
            raise ValueError(f"{name}: expected shape {layout}, got {_written(shape)}")
        height, width = shape[1:3] if channels_last else shape[2:4]
        if min(height, width) < self.metric.min_size:
            raise ValueError(
                f"{name}: expected width and height of at least {self.metric.min_size}, "
                f"got {width} x {height}"
            )
        pixels = shape[0] * height * width
        if pixels > self.max_pixels:
            raise ValueError(f"{name}: expected at most {self.max_pixels} pixels, got {pixels}")

    def _check_values(self, name: str, images: np.ndarray) -> None:
        if images.dtype != self.metric.input_type:
            raise TypeError(f"{name}: expected {self.metric.input_type}, got {images.dtype}")
        if images.dtype == np.uint8:
            return
        least, largest = float(images.min()), float(images.max())
        # Written so that NaN, for which every comparison is false, is refused as well.
        if not (least >= 0 and largest <= 1):
            got = "NaN" if math.isnan(least) else f"{least:g} to {largest:g}"
            raise ValueError(f"{name}: expected values in [0, 1], got {got}")


def _checked_output(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype == np.bool_:
        return value
    if not np.isfinite(value).all():
        raise RuntimeError(f"metric: expected a finite {name}, got NaN or infinity in it")
    if name == "score":
        if (value < -ROUNDING).any():
            raise RuntimeError(f"metric: expected a score >= 0, got {value.min()!s}")
        value = np.maximum(value, np.float32(0))
    return value


def _written(shape: Sequence[int]) -> str:
    return f"({', '.join(str(size) for size in shape)})"
