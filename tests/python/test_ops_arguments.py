"""What the operators refuse: arguments, and statistics that are not theirs."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from operators import DEVICE, ROW_SUMS, SETTINGS

op = torch.ops.pe_runtime
X = torch.zeros(2, 8, 4, 4, device=DEVICE)
ONES = torch.ones(3, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: op.contextual(X[0], X),
            r"source: expected a non-empty shape \(B, C, H, W\), got \(8, 4, 4\)",
        ),
        (lambda: op.contextual(X, X[:, :, :0]), r"target: expected a non-empty shape .*, got \(2, 8, 0, 4\)"),
        (lambda: op.contextual(X.int(), X), "source: expected features in float32.*, got Int"),
        (lambda: op.contextual(X, X.half()), "source and target: expected one type, got Float and Half"),
        (lambda: op.contextual(X, X[:1]), "source and target: expected the same batch size and channels"),
        (lambda: op.contextual(X, X, torch.tensor([0, 8])), "channels: expected numbers from 0 to 7, got 8"),
        (
            lambda: op.contextual(X, X, torch.tensor([3, 3])),
            "channels: expected each number once, got 3 twice",
        ),
        (lambda: op.contextual(X, X, torch.tensor([1.0])), r"channels: expected int64 .*\(K,\)"),
        (lambda: op.contextual(X, X, None, torch.ones(3)), "weights: expected one for each of 8 channels"),
        (lambda: op.contextual(X, X, bandwidth=0.0), "bandwidth: expected a finite number above 0, got 0"),
        (lambda: op.contextual(X, X, bandwidth=float("nan")), "bandwidth: expected"),
        (lambda: op.contextual(X, X, distance="l1"), "distance: expected one of 'cosine', 'l2', got 'l1'"),
        (lambda: op.contextual(X, X, center="image"), "center: expected one of 'sample', 'batch', 'none'"),
        (lambda: op.contextual(X, X, spatial_weight=-1.0), "spatial_weight: expected a finite number >= 0"),
        (lambda: op.contextual(X, X, form="exp"), "form: expected one of 'log', 'one_minus', got 'exp'"),
        (
            lambda: op.contextual(X, X, matmul_precision="medium"),
            "matmul_precision: expected one of 'highest', 'high', got 'medium'",
        ),
        (lambda: op.contextual(X, X, eps=0.0), "eps: expected a finite number above 0"),
        (lambda: op.contextual(X, X, eps_log=-1.0), "eps_log: expected a finite number >= 0"),
        (
            lambda: op.contextual(X, X, None, torch.ones(8, requires_grad=True)),
            "weights: expected constants, got a tensor that requires a gradient",
        ),
        (lambda: op.channel_distance(X, X[:, :, 1:]), "first and second: expected the same shape"),
        (lambda: op.channel_distance(X, X, form="cubed"), "form: expected one of 'squared', 'unit'"),
        (
            lambda: op.channel_distance(X, X, None, torch.ones(8), form="unit"),
            "weights: expected none with form",
        ),
        (lambda: op.channel_distance(X, X, None, None, torch.ones(8)), "linear: expected none with form"),
        (
            lambda: op.channel_distance(X, X, None, None, torch.ones(7), "unit"),
            "linear: expected one for each",
        ),
        (
            lambda: op.contextual_backward(
                *(ONES, None, X, X, None, None, *op.contextual(X, X)[1:]),
                *(*SETTINGS, True, True),
            ),
            r"loss_gradient: expected Float on (the CPU|cuda:0) in shape \(2\), got Float in shape \(3\)",
        ),
        (
            lambda: op.contextual_backward(
                *(ONES[:2], None, X, X, None, None, *op.contextual(X, X[..., 1:])[1:]),
                *(*SETTINGS, True, True),
            ),
            r"log_similarity: expected Float on .* in shape \(2, 1, 4, 4\), got .* \(2, 1, 4, 3\)",
        ),
        (
            lambda: op.contextual_backward(
                *(ONES[:2], None, X, X, None, None, *op.contextual(X, X)[1:-1], ONES),
                *(*SETTINGS, True, True),
            ),
            r"row_sums: expected (Float on the CPU in shape \(2, 4, 4, 9\), got .* \(3\)|none on CUDA)",
        ),
    ],
)
def test_bad_arguments_of_the_operators_are_named(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.skipif(ROW_SUMS, reason="these kernels keep them")
def test_sums_that_kernels_do_not_keep_are_refused():
    with pytest.raises(RuntimeError, match="row_sums: expected False on CUDA"):
        op.contextual(X, X, row_sums=True)


def test_statistics_of_other_features_do_no_harm():
    """Indices out of range in what forward has saved must not be read through."""
    _, log_similarity, arg, *rows = op.contextual(X, X)
    for wrong in (torch.full_like(arg, 10**9), torch.full_like(arg, -1)):
        saved = (log_similarity, wrong, *rows)
        gradients = op.contextual_backward(ONES[:2], None, X, X, None, None, *saved, *SETTINGS, True, True)
        assert all(gradient.isnan().all() for gradient in gradients)


@pytest.mark.skipif(ROW_SUMS, reason="limits of the kernels for CUDA")
@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (
            (65_536, 1, 1, 1),
            {},
            "source and target: expected at most 65535 samples in a batch on CUDA, got 65536",
        ),
        ((65_536, 1, 1, 1), {"distance": "l2"}, "source and target: expected at most 65535 samples"),
        (
            (1, 1, 8192, 8192),
            {},
            "target: expected at most 67107840 positions on CUDA, unless center is 'none', got 67108864",
        ),
        ((1, 1, 8192, 8192), {"center": "batch"}, "target: expected at most 67107840 positions"),
    ],
)
def test_sizes_that_no_grid_of_blocks_holds(shape, settings, message):
    features = torch.zeros(1, 1, 1, 1, device=DEVICE).expand(shape)
    source = features if shape[0] > 1 else features[:, :, :1, :1]
    with pytest.raises(RuntimeError, match=message):
        op.contextual(source, features, **settings)
