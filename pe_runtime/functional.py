"""Losses and distances of feature maps, as functions.

Feature maps are (B, C, H, W), NCHW or channels-last in memory, in any floating-point dtype. Half precision
is computed in float32: rounded to bf16 or TF32, near-identical features give wrong losses without any NaN
to show it. `channels` selects some of the C channels, `weights` multiplies the selected features.
NaN in the features propagates to the result of its sample.

`kernels` says what computes: "auto", native operators on the CPU where they are there and can (any distance
but "l1"), and the definitions in plain PyTorch otherwise; "native" or "reference" insist on either. On CUDA
"auto" takes the definitions, and says so once: no GPU has run the kernels yet; "native" chooses them. The
environment variable PE_RUNTIME_KERNELS decides what "auto" is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pe_runtime import ops
from pe_runtime import reference as definitions
from pe_runtime.checks import check_choice, is_tracing
from pe_runtime.reference import ContextualSettings

PARITY = {
    "mechrez-tensorflow": ContextualSettings(center="batch", eps=2e-5),
    "pytorch-port": ContextualSettings(center="batch", eps=1e-5, eps_log=1e-5),
}
"""Settings that give the numbers of the reference implementations.

"mechrez-tensorflow": the authors' TensorFlow code (contextualLoss, CSFlow.CX_loss). It halves the cosine
distance before adding eps = 1e-5 to the minimum, which is eps = 2e-5 here; its L2 distance is not halved,
so there eps = 1e-5. It samples at most 65 x 65 positions at random, which is not repeated here: the
numbers agree for maps up to that size.

"pytorch-port": the widely copied PyTorch code (contextual_loss_pytorch), cosine distance. It adds 1e-5
inside the logarithm, so identical images score -1e-5. Its "l1" and "l2" distances are not those
distances (it takes the absolute value of a sum, and adds squared norms along the wrong axes) and are refused.

Both centre over the whole batch, so the loss of a pair depends on the other pairs of its batch.
"""


def contextual_loss(
    source: Tensor,
    target: Tensor,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    symmetric: bool = False,
    form: str = "log",
    parity: str | None = None,
    matmul_precision: str = "highest",
    reduction: str = "mean",
    kernels: str = "auto",
) -> Tensor:
    """Contextual loss between two feature maps (Mechrez et al., ECCV 2018; Eq. 9 of Tariq et al., 2020).

    Every target position looks for the source position that is most similar to it, in proportion to how
    similar that one is to all target positions. The loss lies in [0, log Ny] (`form="log"`) or [0, 1)
    (`"one_minus"`), Ny being the number of target positions. Identical maps give 0 where all their
    features differ; positions that share one feature share its similarity, so a map with flat regions
    has a loss above 0 to itself, log Ny if it is constant.

    Args:
        source: features of the image being judged or trained, (B, C, Hx, Wx).
        target: features of the reference, (B, C, Hy, Wy); its size may differ from the source's.
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel, applied before everything else; None: 1.
        bandwidth: h > 0. Small values are selective, large ones blur.
        distance: "cosine", "l2" (squared Euclidean) or "l1".
        center: what is subtracted before the cosine: the mean target feature of each "sample", that of
            the "batch" (makes samples depend on each other), or "none".
        spatial_weight: weight >= 0 of the squared distance of the two positions in the unit square, added
            to the feature distance (CoBi, Zhang et al., CVPR 2019); 0: none.
        symmetric: take the mean of both directions.
        form: "log": -log CX, or "one_minus": 1 - CX.
        parity: a key of `PARITY`: overrides `center` and `form` to give that implementation's numbers.
        matmul_precision: of float32 features on CUDA, as `torch.set_float32_matmul_precision` has it.
            "highest": products are accurate to float32. "high": operands are rounded to 11 significant bits,
            as TF32 does; several times faster, but the loss of near-identical features is wrong, see
            docs/native.md. On the CPU, and by the definitions, everything is "highest".
        reduction: "mean" or "sum" over samples, or "none".
        kernels: "auto", "native" or "reference".

    Returns:
        The loss, a scalar, or (B,) for reduction "none"; float64 for float64 features, else float32.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or a setting out of its range.
        RuntimeError: "native" where the operators cannot.
    """
    settings = contextual_settings(
        bandwidth=bandwidth,
        distance=distance,
        center=center,
        spatial_weight=spatial_weight,
        symmetric=symmetric,
        form=form,
        parity=parity,
        matmul_precision=matmul_precision,
    )
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(kernels, "kernels", ops.KERNELS)
    _check_pair(source, target, "source", "target", same_size=False)
    return reduce(contextual_and_map(source, target, settings, channels, weights, kernels)[0], reduction)


def feature_distance(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    *,
    reduction: str = "none",
    kernels: str = "auto",
) -> Tensor:
    """Mean squared difference of two feature maps: Tariq et al. (ECCV 2020), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel's features; None: 1.
        reduction: "none", or "mean" or "sum" over samples.
        kernels: "auto", "native" or "reference".

    Returns:
        (B,), or a scalar; the mean is over the selected channels and all positions.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or another reduction.
        RuntimeError: "native" where the operators cannot.
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(kernels, "kernels", ops.KERNELS)
    _check_pair(reference, distorted, "reference", "distorted", same_size=True)
    return reduce(difference_and_map(reference, distorted, channels, weights, kernels)[0], reduction)


def lpips_distance(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    linear: Tensor | Sequence[float] | None = None,
    *,
    reduction: str = "none",
    kernels: str = "auto",
) -> Tensor:
    """One layer of the LPIPS form: Zhang et al. (CVPR 2018), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; features are scaled to unit length across these; None: all.
        linear: weight >= 0 of each selected channel's squared difference (the `lin` layers of the lpips
            package); None: 1.
        reduction: "none", or "mean" or "sum" over samples.
        kernels: "auto", "native" or "reference".

    Returns:
        (B,), or a scalar; the sum over channels is averaged over positions.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or another reduction.
        RuntimeError: "native" where the operators cannot.
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(kernels, "kernels", ops.KERNELS)
    _check_pair(reference, distorted, "reference", "distorted", same_size=True)
    return reduce(lpips_and_map(reference, distorted, channels, linear, kernels)[0], reduction)


REDUCTIONS = ("none", "mean", "sum")


def contextual_and_map(
    source: Tensor,
    target: Tensor,
    settings: ContextualSettings,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`contextual_loss` of each sample, (B,), and the similarity of each target position, (B, 1, Hy, Wy).

    Both arguments are checked, see `pe_runtime.reference.contextual_loss` for the map.
    """
    obstacle = "distance 'l1' has no kernel" if settings.distance == "l1" else _obstacle(source, target)
    if not ops.use_native(kernels, obstacle, source.device):
        source, target = (select(features, channels, weights) for features in (source, target))
        return definitions.contextual_loss(source, target, settings)
    source, target, indices, factors = _native_inputs(source, target, channels, weights)
    constants = (
        *(indices, factors, settings.bandwidth, settings.distance, settings.center),
        *(settings.spatial_weight, settings.form, settings.eps, settings.eps_log),
        # Forward is cheaper without them, forward and backward together with them.
        source.device.type in ops.ROW_SUMS
        and torch.is_grad_enabled()
        and (source.requires_grad or target.requires_grad),
        settings.matmul_precision,
    )
    loss, log_similarity = torch.ops.pe_runtime.contextual(source, target, *constants)[:2]
    if settings.symmetric:
        loss = (loss + torch.ops.pe_runtime.contextual(target, source, *constants)[0]) / 2
    return loss, log_similarity.exp()


def difference_and_map(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`feature_distance` of each sample, (B,), and its map, (B, 1, H, W)."""
    if ops.use_native(kernels, _obstacle(reference, distorted), reference.device):
        inputs = _native_inputs(reference, distorted, channels, weights)
        return torch.ops.pe_runtime.channel_distance(*inputs, None, "squared")
    first, second = (select(features, channels, weights) for features in (reference, distorted))
    difference = definitions.feature_difference(first, second)
    return difference.mean(dim=(1, 2, 3)), difference


def lpips_and_map(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    linear: Tensor | Sequence[float] | None = None,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`lpips_distance` of each sample, (B,), and its map, (B, 1, H, W)."""
    learned = isinstance(linear, Tensor) and linear.requires_grad
    obstacle = "linear requires a gradient" if learned else _obstacle(reference, distorted)
    if ops.use_native(kernels, obstacle, reference.device):
        first, second, indices, _ = _native_inputs(reference, distorted, channels, None)
        count = first.shape[1] if indices is None else indices.shape[0]
        factors = None if linear is None else _native_factors(linear, "linear", first, count)
        return torch.ops.pe_runtime.channel_distance(first, second, indices, None, factors, "unit")
    first, second = (select(features, channels, None) for features in (reference, distorted))
    factors = None if linear is None else _factors(linear, "linear", first, first.shape[1])
    difference = definitions.lpips_difference(first, second, factors)
    return difference.mean(dim=(1, 2, 3)), difference


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Reduce scores (B,) as `reduction` ("none", "mean" or "sum") says."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def contextual_settings(
    *,
    bandwidth: float = 0.5,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    symmetric: bool = False,
    form: str = "log",
    parity: str | None = None,
    matmul_precision: str = "highest",
) -> ContextualSettings:
    """Check the settings of the contextual loss, see `contextual_loss`.

    Raises:
        ValueError: a setting out of its range, or one that a parity mode does not have.
    """
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth: expected a finite number above 0, got {bandwidth}")
    if not 0 <= spatial_weight < math.inf:
        raise ValueError(f"spatial_weight: expected a finite number >= 0, got {spatial_weight}")
    check_choice(distance, "distance", definitions.DISTANCES)
    check_choice(center, "center", definitions.CENTERS)
    check_choice(form, "form", definitions.FORMS)
    check_choice(matmul_precision, "matmul_precision", definitions.MATMUL_PRECISIONS)
    settings = ContextualSettings(
        bandwidth=float(bandwidth),
        distance=distance,
        center=center,
        spatial_weight=float(spatial_weight),
        symmetric=bool(symmetric),
        form=form,
        matmul_precision=matmul_precision,
    )
    return settings if parity is None else _with_parity(settings, parity)


def _with_parity(settings: ContextualSettings, parity: str) -> ContextualSettings:
    check_choice(parity, "parity", tuple(PARITY))
    if settings.spatial_weight > 0 or settings.symmetric:
        raise ValueError(f"parity: {parity!r} has neither a spatial term nor a symmetric form")
    known = ("cosine",) if parity == "pytorch-port" else ("cosine", "l2")
    if settings.distance not in known:
        raise ValueError(f"distance: expected {' or '.join(known)} with parity {parity!r}")
    kept = {name: getattr(settings, name) for name in ("bandwidth", "distance", "matmul_precision")}
    preset = replace(PARITY[parity], **kept)
    return replace(preset, eps=1e-5) if settings.distance == "l2" else preset


def select(
    features: Tensor, channels: Sequence[int] | None, weights: Tensor | Sequence[float] | None
) -> Tensor:
    """Selected, weighted features in the dtype that is computed in: float64, or else float32.

    Raises:
        ValueError: a channel that does not exist, or weights of another number.
    """
    features = widen(features)
    if channels is not None:
        _check_channels(channels, features)
        features = features[:, torch.as_tensor(channels, device=features.device)]
    if weights is not None:
        factors = _factors(weights, "weights", features, features.shape[1])
        features = features * factors[None, :, None, None]
    return features


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float64 if it is in that, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _obstacle(first: Tensor, second: Tensor) -> str | None:
    """Why the operators cannot take these features, None if they can."""
    for features in (first, second):
        if features.device.type not in ops.DEVICES:
            return f"features are on {features.device.type!r}, with kernels for the CPU and CUDA only"
    if torch._C._are_functorch_transforms_active():
        return "torch.func has no gradient of operators that are registered with torch.library"
    return None


def _native_inputs(
    first: Tensor,
    second: Tensor,
    channels: Sequence[int] | None,
    weights: Tensor | Sequence[float] | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Features of one type that the operators read, and the channels and weights for them, checked."""
    if first.dtype != second.dtype or first.dtype not in ops.DTYPES:
        dtype = torch.promote_types(widen(first).dtype, widen(second).dtype)
        first, second = first.to(dtype), second.to(dtype)
    repeated = channels is not None and len(set(channels)) < len(channels)
    if repeated or (isinstance(weights, Tensor) and weights.requires_grad):
        # Operators take each channel once, and weights as constants.
        return select(first, channels, weights), select(second, channels, weights), None, None
    indices = factors = None
    if channels is not None:
        _check_channels(channels, first)
        indices = torch.as_tensor(channels, dtype=torch.int64, device="cpu")
    if weights is not None:
        count = first.shape[1] if channels is None else len(channels)
        factors = _native_factors(weights, "weights", first, count)
    return first, second, indices, factors


def _check_channels(channels: Sequence[int], features: Tensor) -> None:
    available = features.shape[1]
    if len(channels) == 0 or not all(0 <= channel < available for channel in channels):
        raise ValueError(f"channels: expected numbers from 0 to {available - 1}, got {list(channels)}")


def _factors(values: Tensor | Sequence[float], name: str, features: Tensor, count: int) -> Tensor:
    return _checked_factors(values, name, features, count, features.device)


def _native_factors(values: Tensor | Sequence[float], name: str, features: Tensor, count: int) -> Tensor:
    """Factors as the operators take them: on the CPU, whatever the features are on."""
    if isinstance(values, Tensor):
        values = ops.on_cpu(values)
    return _checked_factors(values, name, features, count, torch.device("cpu"))


def _checked_factors(
    values: Tensor | Sequence[float], name: str, features: Tensor, count: int, device: torch.device
) -> Tensor:
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    factors = torch.as_tensor(values, device=device, dtype=dtype)
    if factors.shape != (count,):
        raise ValueError(
            f"{name}: expected one for each of {count} channels, got shape {tuple(factors.shape)}"
        )
    return factors


def _check_pair(first: Tensor, second: Tensor, first_name: str, second_name: str, *, same_size: bool) -> None:
    for features, name in ((first, first_name), (second, second_name)):
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"{name}: expected a floating-point tensor of features, got {kind}")
        if features.ndim != 4 or (not is_tracing() and features.numel() == 0):
            raise ValueError(f"{name}: expected a non-empty shape (B, C, H, W), got {tuple(features.shape)}")
    kept = slice(None) if same_size else slice(0, 2)
    if not is_tracing() and first.shape[kept] != second.shape[kept]:
        what = "the same shape" if same_size else "the same batch size and channels"
        raise ValueError(
            f"{first_name} and {second_name}: expected {what}, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.device != second.device:
        raise ValueError(
            f"{first_name} and {second_name}: expected one device, got {first.device} and {second.device}"
        )
