"""Training losses: the contextual loss of deep features, and the total loss of Eq. 9.

Prediction first, target second, as losses of PyTorch have it. Images are RGB, (B, 3, H, W), nominally in
[0, 1]; a network in training may leave that range, so values are not checked, and NaN propagates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from pe_runtime.backbones import Backbone
from pe_runtime.checks import check_choice, check_images, check_same_shape, is_tracing
from pe_runtime.functional import REDUCTIONS, contextual_and_map, contextual_settings, reduce, widen
from pe_runtime.metrics import Metric


class ContextualLoss(Metric):
    """Contextual loss of the features of two images (Mechrez et al., ECCV 2018).

    With channel sets and PE weights in the backbone's taps, that of Tariq et al. (ECCV 2020), Section 5.5.
    See `pe_runtime.functional.contextual_loss` for the definition and its range.

    Args:
        backbone: gives the features; its taps are all used.
        bandwidth: h > 0.
        distance: "cosine", "l2" or "l1".
        center: "sample", "batch" or "none".
        spatial_weight: weight >= 0 of the spatial term of the bilateral variant (CoBi); 0: none.
        symmetric: take the mean of both directions.
        form: "log" or "one_minus".
        parity: "mechrez-tensorflow" or "pytorch-port", see `pe_runtime.functional.PARITY`.
        matmul_precision: "highest" or "high", of the kernels for CUDA: see
            `pe_runtime.functional.contextual_loss`. Exported files compute "highest".
        tap_weights: weight >= 0 of each tap's loss; None: the mean over taps.
        reduction: "mean" (default), "sum" or "none".
        check_values: refuse images with values outside [0, 1] and NaN; off by default.
        kernels: "auto", "native" or "reference", see `pe_runtime.functional`.

    Raises:
        ValueError: a setting out of its range.
    """

    kind = "contextual"

    def __init__(
        self,
        backbone: Backbone,
        bandwidth: float = 0.5,
        *,
        distance: str = "cosine",
        center: str = "sample",
        spatial_weight: float = 0.0,
        symmetric: bool = False,
        form: str = "log",
        parity: str | None = None,
        matmul_precision: str = "highest",
        tap_weights: Mapping[str, float] | None = None,
        reduction: str = "mean",
        check_values: bool = False,
        kernels: str = "auto",
    ) -> None:
        super().__init__(
            backbone,
            tap_weights=tap_weights,
            reduction=reduction,
            check_values=check_values,
            kernels=kernels,
        )
        self.contextual = contextual_settings(
            bandwidth=bandwidth,
            distance=distance,
            center=center,
            spatial_weight=spatial_weight,
            symmetric=symmetric,
            form=form,
            parity=parity,
            matmul_precision=matmul_precision,
        )

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss.

        Args:
            prediction: (B, 3, H, W), the image being judged or trained.
            target: (B, 3, H', W'), the reference; its size may differ.

        Returns:
            A scalar, or (B,) for reduction "none".

        Raises:
            TypeError: images that are not floating-point tensors.
            ValueError: batch sizes that differ, images too small for the backbone.
        """
        for images, name in ((prediction, "prediction"), (target, "target")):
            check_images(images, name, min_size=self.backbone.min_size, values=self.check_values)
        if not is_tracing() and len(prediction) != len(target):
            raise ValueError(
                "prediction and target: expected the same batch size, "
                f"got {len(prediction)} and {len(target)}"
            )
        return reduce(self._score_and_map(target, prediction)[0], self.reduction)

    def tap_map(self, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one tap, and 1 - max_i CX_ij at each position of the reference. See `Metric.tap_map`."""
        loss, similarity = contextual_and_map(distorted, reference, self.contextual, kernels=self.kernels)
        return loss, 1 - similarity

    def settings(self) -> dict[str, Any]:
        """See `Metric.settings`."""
        constants = asdict(self.contextual)
        # As `kernels`, it is of this process: exported files have no such choice.
        del constants["matmul_precision"]
        return {**super().settings(), **constants}


class TotalLoss(nn.Module):
    """Eq. 9 of Tariq et al. (ECCV 2020): alpha L2 + (1 - alpha) L_contextual.

    L2 is the mean squared error of the pixels.

    Args:
        loss: the contextual (or any other) loss, called as loss(prediction, target). It must have the
            same `reduction`, if it has one.
        alpha: in [0, 1]; 1 is the pixel loss alone.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: alpha out of range, or a reduction other than the loss's.
    """

    def __init__(self, loss: nn.Module, alpha: float = 0.9, *, reduction: str = "mean") -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected a number from 0 to 1, got {alpha}")
        check_choice(reduction, "reduction", REDUCTIONS)
        if getattr(loss, "reduction", reduction) != reduction:
            raise ValueError(f"reduction: expected that of the loss, {loss.reduction!r}, got {reduction!r}")
        self.loss = loss
        self.alpha = float(alpha)
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of images (B, 3, H, W), both of one shape: a scalar, or (B,) for reduction "none".

        Raises:
            ValueError: shapes that differ.
        """
        check_same_shape(prediction, target, "prediction", "target")
        # Widened: the square of a small half-precision difference would be 0.
        squared = (widen(prediction) - widen(target)).square().flatten(1).mean(dim=1)
        return self.alpha * reduce(squared, self.reduction) + (1 - self.alpha) * self.loss(prediction, target)
