"""The definitions in plain PyTorch: the oracle of every test, and what runs where no kernel does.

Functions take feature maps (B, C, H, W), already selected and weighted, give the dtype they are given, and
keep the samples of a batch apart (but for `center="batch"`). Callers check the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DISTANCES = ("cosine", "l2", "l1")
CENTERS = ("sample", "batch", "none")
FORMS = ("log", "one_minus")
MATMUL_PRECISIONS = ("highest", "high")

_EPS_NORM = 1e-6
# Of the lpips package, so that its published numbers are met.
_EPS_UNIT = 1e-10


@dataclass(frozen=True)
class ContextualSettings:
    """Constants of the contextual loss, see `contextual_similarity`.

    Args:
        bandwidth: h > 0, of Mechrez et al.'s Eq. 3.
        distance: "cosine", "l2" (squared) or "l1".
        center: "sample", "batch" or "none": over what the mean target feature is taken (cosine only).
        spatial_weight: w_s >= 0 of the bilateral variant; 0: none.
        symmetric: mean of the losses in both directions.
        form: "log": -log(CX + eps_log); "one_minus": 1 - CX.
        eps: added to the minimum distance that normalises a row.
        eps_log: added to CX inside the logarithm.
        matmul_precision: "highest" or "high", of the kernels for CUDA; the definitions are always "highest".
    """

    bandwidth: float = 0.5
    distance: str = "cosine"
    center: str = "sample"
    spatial_weight: float = 0.0
    symmetric: bool = False
    form: str = "log"
    eps: float = 1e-5
    eps_log: float = 0.0
    matmul_precision: str = "highest"


def contextual_loss(source: Tensor, target: Tensor, settings: ContextualSettings) -> tuple[Tensor, Tensor]:
    """Contextual loss of each sample and the similarity of each target position.

    Args:
        source: features of the image being judged or trained, (B, C, Hx, Wx).
        target: features of the reference, (B, C, Hy, Wy).
        settings: the constants.

    Returns:
        The loss, (B,), and max_i CX_ij, (B, 1, Hy, Wy), in (0, 1], whose mean over positions is CX. In the
        symmetric case that map is of the direction source to target.
    """
    similarity = contextual_similarity(source, target, settings)
    loss = _contextual_form(similarity, settings)
    if settings.symmetric:
        backwards = contextual_similarity(target, source, settings)
        loss = (loss + _contextual_form(backwards, settings)) / 2
    return loss, similarity


def contextual_similarity(source: Tensor, target: Tensor, settings: ContextualSettings) -> Tensor:
    """Contextual similarity of each target position to the source, max_i CX_ij.

    Mechrez et al. (ECCV 2018), Eq. 2 to 4, with the distance d_ij of source feature i and target feature j:

        m_i = min_j d_ij,  k_i = 1 / (h (m_i + eps)),
        CX_ij = exp(-k_i d_ij) / sum_j exp(-k_i d_ij)

    which is the paper's exp((1 - d_ij / (m_i + eps)) / h), normalised: the 1 / h cancels. d_ij is the
    cosine distance of features centred by the mean target feature, the squared Euclidean distance, or
    the sum of absolute differences, plus, where `spatial_weight` is not 0, that weight times the
    squared distance of the two positions in the unit square (the bilateral CoBi of Zhang et al., CVPR 2019).

    Args:
        source: (B, C, Hx, Wx).
        target: (B, C, Hy, Wy).
        settings: the constants.

    Returns:
        (B, 1, Hy, Wy), in (0, 1].
    """
    distances = _DISTANCES[settings.distance](source, target, settings.center)
    if settings.spatial_weight > 0:
        distances = distances + settings.spatial_weight * _spatial_distances(source, target)
    nearest = distances.min(dim=2, keepdim=True).values
    scaled = -distances / (settings.bandwidth * (nearest + settings.eps))
    log_similarity = torch.log_softmax(scaled, dim=2).max(dim=1).values
    return log_similarity.exp().reshape(target.shape[0], 1, target.shape[2], target.shape[3])


def feature_difference(first: Tensor, second: Tensor) -> Tensor:
    """Squared difference of two feature maps, averaged over channels: Eq. 1 before averaging over space.

    Args:
        first: (B, C, H, W).
        second: (B, C, H, W).

    Returns:
        (B, 1, H, W), >= 0; its mean over space is Eq. 1 of Tariq et al. (2020).
    """
    return (first - second).square().mean(dim=1, keepdim=True)


def lpips_difference(first: Tensor, second: Tensor, linear: Tensor | None) -> Tensor:
    """The LPIPS form of one tap before averaging over space: Zhang et al. (CVPR 2018), Eq. 1.

    Features are scaled to unit length across channels; squared differences are weighted and summed.

    Args:
        first: (B, C, H, W).
        second: (B, C, H, W).
        linear: weight of each channel's squared difference, (C,); None: 1.

    Returns:
        (B, 1, H, W), >= 0.
    """
    difference = (_unit_length(first) - _unit_length(second)).square()
    if linear is not None:
        difference = difference * linear[None, :, None, None]
    return difference.sum(dim=1, keepdim=True)


def _unit_length(features: Tensor) -> Tensor:
    # vector_norm has the subgradient 0 at 0, where sqrt(sum of squares) would give NaN. The lpips package
    # adds the eps; exporters fold "+ 1e-10" away as if it were 0, which would be 0 / 0 at silent positions.
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(_EPS_UNIT)
    # Divided by a norm that overflows, any two features would be equal, 0.
    return features / norm.masked_fill(norm == float("inf"), float("nan"))


def _contextual_form(similarity: Tensor, settings: ContextualSettings) -> Tensor:
    cx = similarity.flatten(1).mean(dim=1)
    if settings.form == "one_minus":
        return 1 - cx
    return -torch.log(cx + settings.eps_log)


def _cosine_distances(source: Tensor, target: Tensor, center: str) -> Tensor:
    # In float64 up to the subtraction: of near-identical features 1 - cos is 1e-4 and less, which float32
    # gets to three digits, and the loss divides by it. (Apple's GPUs have no float64.)
    dtype = source.dtype
    if source.device.type != "mps":
        source, target = source.double(), target.double()
    if center != "none":
        over = (0, 2, 3) if center == "batch" else (2, 3)
        mean = target.mean(dim=over, keepdim=True)
        source, target = source - mean, target - mean
    source = F.normalize(source, dim=1, eps=_EPS_NORM).flatten(2)
    target = F.normalize(target, dim=1, eps=_EPS_NORM).flatten(2)
    distances = torch.baddbmm(source.new_ones(()), source.transpose(1, 2), target, alpha=-1)
    # Rounding makes 1 - cos slightly negative for equal features; divided by a minimum near -eps that
    # would turn the loss into NaN.
    return distances.to(dtype).clamp_min(0)


def _l2_distances(source: Tensor, target: Tensor, center: str) -> Tensor:
    # The direct sum of squares: |x|^2 - 2 x.y + |y|^2 loses the small distances to cancellation.
    source, target = source.flatten(2).transpose(1, 2), target.flatten(2).transpose(1, 2)
    distances = torch.cdist(source, target, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square()


def _l1_distances(source: Tensor, target: Tensor, center: str) -> Tensor:
    source, target = source.flatten(2).transpose(1, 2), target.flatten(2).transpose(1, 2)
    return torch.cdist(source, target, p=1)


_DISTANCES = {"cosine": _cosine_distances, "l2": _l2_distances, "l1": _l1_distances}


def _spatial_distances(source: Tensor, target: Tensor) -> Tensor:
    difference = _positions(source)[:, None, :] - _positions(target)[None, :, :]
    return difference.square().sum(dim=2)


def _positions(features: Tensor) -> Tensor:
    """Centres of the positions in the unit square, (H W, 2), whatever the size of the map."""
    rows, columns = (
        (torch.arange(size, device=features.device, dtype=features.dtype) + 0.5) / size
        for size in features.shape[2:]
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
