"""Losses and distances of feature maps in arrays, without torch.

Feature maps are (B, C, H, W), NCHW or channels-last in memory: NumPy arrays, or arrays of any library whose
arrays have `__dlpack__` and lie in the machine's memory. They are float16, float32, float64, or NumPy
arrays of ml_dtypes.bfloat16; half precision is computed in float32. They are read where they are, unless
their positions are not evenly spaced in memory. `channels` selects some of the C channels, each at
most once. NaN in the features propagates to the result of its sample. The definitions are those of
`pe_runtime.functional`; results have the same bits for any number of threads.

The functions whose names end in `_gradients` also give the derivatives, for optimisers of any kind. Threads
are started for the call and end with it, and the interpreter's lock is released meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pe_runtime import _kernels
from pe_runtime.checks import check_choice

if TYPE_CHECKING:
    from pe_runtime._kernels import Array, Vector

_REDUCTIONS = ("none", "mean", "sum")


def contextual_loss(
    source: Array,
    target: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    form: str = "log",
    reduction: str = "mean",
    threads: int | None = None,
) -> NDArray[Any]:
    """Contextual loss between two feature maps, see `pe_runtime.functional.contextual_loss`.

    Args:
        source: features of the image being judged or optimised, (B, C, Hx, Wx).
        target: features of the reference, (B, C, Hy, Wy).
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel; None: 1.
        bandwidth: h > 0.
        distance: "cosine" or "l2" (squared Euclidean).
        center: "sample", "batch" or "none".
        spatial_weight: weight >= 0 of the squared distance of positions in the unit square.
        form: "log" or "one_minus".
        reduction: "mean" or "sum" over samples, or "none".
        threads: how many; None: one for each processor that this process may run on.

    Returns:
        The loss, of shape (), or (B,) for reduction "none"; float64 for float64 features, else float32.

    Raises:
        TypeError: features that are not arrays of floating-point numbers in the machine's memory.
        ValueError: shapes that do not fit, or a setting out of its range.
    """
    check_choice(reduction, "reduction", _REDUCTIONS)
    loss, _ = _kernels.contextual(
        source,
        target,
        channels,
        weights,
        bandwidth,
        distance=distance,
        center=center,
        spatial_weight=spatial_weight,
        form=form,
        threads=threads,
    )
    return _reduce(loss, reduction)


def contextual_loss_gradients(
    source: Array,
    target: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    form: str = "log",
    target_needed: bool = False,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Contextual loss of each sample, (B,), and the gradients of its sum.

    Args:
        source: as for `contextual_loss`, and so are the others.
        target: see there.
        channels: see there; channels that are not selected have gradient 0.
        weights: see there.
        bandwidth: see there.
        distance: see there.
        center: see there.
        spatial_weight: see there.
        form: see there.
        target_needed: also compute the gradient of the target.
        threads: see there.

    Returns:
        The losses; the gradient of the source, of the source's shape, type and order of dimensions in
        memory; the same of the target, or None.

    Raises:
        TypeError: as `contextual_loss`.
        ValueError: as `contextual_loss`.
    """
    loss, statistics = _kernels.contextual(
        source,
        target,
        channels,
        weights,
        bandwidth,
        distance=distance,
        center=center,
        spatial_weight=spatial_weight,
        form=form,
        row_sums=True,
        threads=threads,
    )
    source_gradient, target_gradient = _kernels.contextual_backward(
        np.ones_like(loss),
        None,
        source,
        target,
        statistics,
        channels,
        weights,
        bandwidth,
        distance=distance,
        center=center,
        spatial_weight=spatial_weight,
        form=form,
        target_needed=target_needed,
        threads=threads,
    )
    assert source_gradient is not None
    return loss, source_gradient, target_gradient


def feature_distance(
    reference: Array,
    distorted: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    *,
    reduction: str = "none",
    threads: int | None = None,
) -> NDArray[Any]:
    """Mean squared difference of two feature maps: Tariq et al. (ECCV 2020), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel's features; None: 1.
        reduction: "none", or "mean" or "sum" over samples.
        threads: how many; None: one for each processor that this process may run on.

    Returns:
        (B,), or shape (); the mean is over the selected channels and all positions.

    Raises:
        TypeError: features that are not arrays of floating-point numbers in the machine's memory.
        ValueError: shapes that do not fit, or another reduction.
    """
    check_choice(reduction, "reduction", _REDUCTIONS)
    distance, _ = _kernels.channel_distance(reference, distorted, channels, weights, threads=threads)
    return _reduce(distance, reduction)


def feature_distance_gradients(
    reference: Array,
    distorted: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    *,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """`feature_distance` of each sample, (B,), and the gradients of its sum.

    Args:
        reference: as for `feature_distance`, and so are the others.
        distorted: see there.
        channels: see there; channels that are not selected have gradient 0.
        weights: see there.
        threads: see there.

    Returns:
        The distances, and the gradients of both feature maps, of their shape and type.

    Raises:
        TypeError: as `feature_distance`.
        ValueError: as `feature_distance`.
    """
    return _distance_gradients(reference, distorted, channels, weights, None, "squared", threads)


def lpips_distance(
    reference: Array,
    distorted: Array,
    channels: Sequence[int] | Array | None = None,
    linear: Vector | None = None,
    *,
    reduction: str = "none",
    threads: int | None = None,
) -> NDArray[Any]:
    """One layer of the LPIPS form: Zhang et al. (CVPR 2018), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; features are scaled to unit length across these; None: all.
        linear: weight >= 0 of each selected channel's squared difference; None: 1.
        reduction: "none", or "mean" or "sum" over samples.
        threads: how many; None: one for each processor that this process may run on.

    Returns:
        (B,), or shape (); the sum over channels is averaged over positions.

    Raises:
        TypeError: features that are not arrays of floating-point numbers in the machine's memory.
        ValueError: shapes that do not fit, or another reduction.
    """
    check_choice(reduction, "reduction", _REDUCTIONS)
    distance, _ = _kernels.channel_distance(
        reference, distorted, channels, linear=linear, form="unit", threads=threads
    )
    return _reduce(distance, reduction)


def lpips_distance_gradients(
    reference: Array,
    distorted: Array,
    channels: Sequence[int] | Array | None = None,
    linear: Vector | None = None,
    *,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """`lpips_distance` of each sample, (B,), and the gradients of its sum.

    Args:
        reference: as for `lpips_distance`, and so are the others.
        distorted: see there.
        channels: see there; channels that are not selected have gradient 0.
        linear: see there.
        threads: see there.

    Returns:
        The distances, and the gradients of both feature maps, of their shape and type.

    Raises:
        TypeError: as `lpips_distance`.
        ValueError: as `lpips_distance`.
    """
    return _distance_gradients(reference, distorted, channels, None, linear, "unit", threads)


def _distance_gradients(
    first: Array,
    second: Array,
    channels: Sequence[int] | Array | None,
    weights: Vector | None,
    linear: Vector | None,
    form: str,
    threads: int | None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    arguments = (first, second, channels, weights, linear, form)
    distance, _ = _kernels.channel_distance(*arguments, threads=threads)
    first_gradient, second_gradient = _kernels.channel_distance_backward(
        np.ones_like(distance), None, *arguments, threads=threads
    )
    assert first_gradient is not None
    assert second_gradient is not None
    return distance, first_gradient, second_gradient


def _reduce(values: NDArray[Any], reduction: str) -> NDArray[Any]:
    if reduction == "none":
        return values
    return np.asarray(values.mean() if reduction == "mean" else values.sum())
