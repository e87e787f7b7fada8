"""Channel sets: which channels of a tap are used, and with what weights (Tariq et al. 2020, Eq. 6 to 8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelSet:
    """Some channels of one tap, with a weight for each.

    Args:
        indices: channel numbers within the tap's full output, in strictly ascending order.
        weights: one finite, non-negative factor per index, applied to the features before anything is
            computed from them; None is a weight of 1 for each.
        name: how the set is called in tables and files ("H-10", "random-10 seed 0", ...).
        weights_hash: hash of the network weights that the set was derived from (see
            `Backbone.weights_hash`); None when it was made by hand. A backbone with other weights
            refuses the set.

    Raises:
        ValueError: empty, unsorted, repeated or negative indices; weights of another length, negative,
            not finite or all zero.
    """

    indices: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    name: str = "custom"
    weights_hash: str | None = None

    def __init__(
        self,
        indices: Iterable[int],
        weights: Iterable[float] | None = None,
        name: str = "custom",
        weights_hash: str | None = None,
    ) -> None:
        object.__setattr__(self, "indices", tuple(int(index) for index in indices))
        object.__setattr__(self, "weights", None if weights is None else tuple(float(w) for w in weights))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "weights_hash", weights_hash)
        self._check()

    def __len__(self) -> int:
        return len(self.indices)

    def _check(self) -> None:
        if not self.indices:
            raise ValueError("indices: expected at least one channel, got none")
        if self.indices[0] < 0 or any(b <= a for a, b in zip(self.indices, self.indices[1:], strict=False)):
            raise ValueError(
                f"indices: expected distinct channel numbers >= 0 in ascending order, got {self.indices}"
            )
        if self.weights is None:
            return
        if len(self.weights) != len(self.indices):
            raise ValueError(
                f"weights: expected one for each of the {len(self.indices)} channels, got {len(self.weights)}"
            )
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or not any(self.weights):
            raise ValueError("weights: expected finite numbers >= 0, not all of them 0")

    def check_fits(self, channels: int, tap: str) -> None:
        """Refuse the set for a tap that has too few channels.

        Raises:
            ValueError: an index is not below `channels`.
        """
        if self.indices[-1] >= channels:
            raise ValueError(
                f"channels of tap {tap!r}: expected indices below {channels}, got {self.indices[-1]}"
            )

    def weighted(self, weights: Iterable[float] | None) -> ChannelSet:
        """The same channels with other weights (None: uniform)."""
        return ChannelSet(self.indices, weights, self.name, self.weights_hash)


def percentile_set(scores: Sequence[float] | np.ndarray, percent: float, *, top: bool) -> tuple[int, ...]:
    """Channels at or above (H-x, Eq. 7) or at or below (L-x, Eq. 8) a percentile of their scores.

    Args:
        scores: one score per channel.
        percent: x, in (0, 100].
        top: H-x: scores >= the (100 - x)th percentile; otherwise L-x: scores <= the x-th percentile.
            Percentiles are interpolated linearly. Ties at the percentile are all in, so that a set may
            be larger than x % (many channels of deep layers score exactly 0).

    Returns:
        Channel numbers, ascending; never empty.

    Raises:
        ValueError: percent out of range, or scores empty or not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("scores: expected a non-empty list of finite numbers")
    if not 0 < percent <= 100:
        raise ValueError(f"percent: expected a number above 0 and at most 100, got {percent}")
    # np.percentile's interpolation can overshoot the largest score by a rounding error.
    limit = np.clip(np.percentile(values, 100 - percent if top else percent), values.min(), values.max())
    chosen = values >= limit if top else values <= limit
    return tuple(int(index) for index in np.flatnonzero(chosen))


def random_indices(channels: int, count: int, seed: int) -> tuple[int, ...]:
    """Channel numbers drawn without replacement, ascending: the control beside H-x and L-x.

    Raises:
        ValueError: count is not between 1 and channels.
    """
    if not 1 <= count <= channels:
        raise ValueError(f"count: expected 1 to {channels}, got {count}")
    drawn = np.random.default_rng(seed).choice(channels, size=count, replace=False)
    return tuple(sorted(int(index) for index in drawn))
