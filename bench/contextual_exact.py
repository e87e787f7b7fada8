"""The contextual loss and its gradient in float64, a block of rows at a time: the truth of the benchmarks.

The definition and autograd, as in pe_runtime.reference, but for the matrix of all pairs, which exists one
block of rows at a time. Twice over the rows: first which row is most similar to each column, then the
gradient of those similarities alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from contextual_peers import H
from torch import Tensor


def exact(
    source: Tensor,
    target: Tensor,
    over: tuple[int, ...] = (2, 3),
    eps: float = 1e-5,
    eps_log: float = 0.0,
    block: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Mean loss of the batch, (), and its gradient to the source, both in float64.

    Args:
        source: features, (B, C, H, W).
        target: features, (B, C, H', W').
        over: dimensions over which the mean target feature is taken.
        eps: added to the smallest distance of a row.
        eps_log: added inside the logarithm.
        block: rows at a time.
    """
    source = source.detach().double().requires_grad_()
    target = target.detach().double()
    mean = target.mean(over, keepdim=True)
    x = F.normalize(source - mean, dim=1).flatten(2).transpose(1, 2)
    y = F.normalize(target - mean, dim=1).flatten(2)
    x_gradient = torch.zeros_like(x)
    total = source.new_zeros(())
    for sample in range(len(source)):
        rows, columns = x[sample].detach(), y[sample]
        best, winner = _column_maxima(rows, columns, eps, block)
        cx = best.exp().mean() + eps_log
        total = total - torch.log(cx) / len(source)
        upstream = -best.exp() / (len(best) * cx * len(source))
        _add_gradient(rows, columns, winner, upstream, eps, block, x_gradient[sample])
    (gradient,) = torch.autograd.grad(x, source, x_gradient)
    return total.detach(), gradient


def _log_similarity(rows: Tensor, columns: Tensor, eps: float) -> Tensor:
    distances = (1 - rows @ columns).clamp_min(0)
    return torch.log_softmax(-distances / (H * (distances.amin(1, keepdim=True) + eps)), dim=1)


def _column_maxima(rows: Tensor, columns: Tensor, eps: float, block: int) -> tuple[Tensor, Tensor]:
    best = rows.new_full((columns.shape[1],), -torch.inf)
    winner = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(rows), block):
        similarity = _log_similarity(rows[start : start + block], columns, eps)
        # argmax gives the first of equal ones, max any of them.
        index = similarity.argmax(0)
        value = similarity.gather(0, index[None])[0]
        winner = torch.where(value > best, index + start, winner)
        best = torch.maximum(best, value)
    return best, winner


def _add_gradient(
    rows: Tensor,
    columns: Tensor,
    winner: Tensor,
    upstream: Tensor,
    eps: float,
    block: int,
    gradient: Tensor,
) -> None:
    for start in range(0, len(rows), block):
        leaf = rows[start : start + block].requires_grad_()
        (won,) = torch.where((winner >= start) & (winner < start + len(leaf)))
        similarity = _log_similarity(leaf, columns, eps)[winner[won] - start, won]
        (part,) = torch.autograd.grad((similarity * upstream[won]).sum(), leaf)
        gradient[start : start + len(leaf)] = part
