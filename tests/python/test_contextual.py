"""The contextual loss against float64 loops, the reference implementations' definitions, and gradcheck."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pe_runtime.functional import contextual_loss, contextual_settings
from pe_runtime.reference import contextual_similarity


def features(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(source, target, h=0.5, distance="cosine", center="sample", spatial=0.0, eps=1e-5):
    """One sample, (C, H, W) arrays in float64, written as loops over positions. Returns max_i CX_ij."""
    channels = source.shape[0]
    x = source.reshape(channels, -1).T.astype(np.float64)
    y = target.reshape(channels, -1).T.astype(np.float64)
    if distance == "cosine" and center == "sample":
        mean = sum(y) / len(y)
        x, y = x - mean, y - mean
    cx = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        d = []
        for j in range(len(y)):
            if distance == "cosine":
                norms = max(math.sqrt(sum(x[i] ** 2)), 1e-6) * max(math.sqrt(sum(y[j] ** 2)), 1e-6)
                value = max(0.0, 1 - sum(x[i] * y[j]) / norms)
            elif distance == "l2":
                value = sum((x[i] - y[j]) ** 2)
            else:
                value = sum(abs(x[i] - y[j]))
            row, column = divmod(i, source.shape[2])
            row2, column2 = divmod(j, target.shape[2])
            dy = (row + 0.5) / source.shape[1] - (row2 + 0.5) / target.shape[1]
            dx = (column + 0.5) / source.shape[2] - (column2 + 0.5) / target.shape[2]
            d.append(value + spatial * (dx * dx + dy * dy))
        smallest = min(d)
        w = [math.exp((1 - value / (smallest + eps)) / h) for value in d]
        cx[i] = [value / sum(w) for value in w]
    return cx.max(axis=0)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("spatial", [0.0, 0.3])
def test_equals_loops(distance, spatial):
    source, target = features(2, 3, 3, 4), features(2, 3, 2, 5, seed=1)
    got = contextual_loss(source, target, distance=distance, spatial_weight=spatial, reduction="none")
    for sample in range(2):
        cx = plain(source[sample].numpy(), target[sample].numpy(), distance=distance, spatial=spatial).mean()
        assert got[sample].item() == pytest.approx(-math.log(cx), rel=1e-10)


def test_map_says_which_target_position_is_missed():
    source, target = features(1, 4, 3, 4), features(1, 4, 2, 5, seed=1)
    similarity = contextual_similarity(source, target, contextual_settings())
    assert similarity.shape == (1, 1, 2, 5)
    np.testing.assert_allclose(similarity.flatten(), plain(source[0].numpy(), target[0].numpy()), rtol=1e-10)


@pytest.mark.parametrize("center", ["sample", "none"])
def test_centring(center):
    source, target = features(1, 3, 3, 3) + 1, features(1, 3, 3, 3, seed=1) + 1
    cx = plain(source[0].numpy(), target[0].numpy(), center=center).mean()
    assert contextual_loss(source, target, center=center).item() == pytest.approx(-math.log(cx), rel=1e-10)


def test_forms_reductions_and_symmetry():
    source, target = features(2, 3, 3, 3), features(2, 3, 4, 2, seed=1)
    forward = contextual_loss(source, target, reduction="none")
    backward = contextual_loss(target, source, reduction="none")
    assert not torch.allclose(forward, backward)
    symmetric = contextual_loss(source, target, symmetric=True, reduction="none")
    torch.testing.assert_close(symmetric, (forward + backward) / 2)
    one_minus = contextual_loss(source, target, form="one_minus", reduction="none")
    torch.testing.assert_close(one_minus, 1 - torch.exp(-forward))
    torch.testing.assert_close(contextual_loss(source, target), forward.mean())
    torch.testing.assert_close(contextual_loss(source, target, reduction="sum"), forward.sum())


def test_channels_and_weights_come_first():
    source, target = features(1, 5, 3, 3), features(1, 5, 3, 3, seed=1)
    weights = [0.5, 2.0, 1.5]
    scale = torch.tensor(weights, dtype=torch.float64)[None, :, None, None]
    expected = contextual_loss(source[:, [0, 2, 4]] * scale, target[:, [0, 2, 4]] * scale)
    got = contextual_loss(source, target, channels=[0, 2, 4], weights=weights)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, contextual_loss(source, target))


def tensorflow_definition(images, targets, sigma, distance="cosine"):
    """Mechrez et al.'s CSFlow.CX_loss in float64 NumPy: NHWC, T centred over the batch, halved cosine."""
    if distance == "cosine":
        mean = targets.mean(axis=(0, 1, 2))
        images, targets = images - mean, targets - mean
        images = images / np.linalg.norm(images, axis=3, keepdims=True)
        targets = targets / np.linalg.norm(targets, axis=3, keepdims=True)
    losses = []
    for image, target in zip(images, targets, strict=True):
        vectors = target.reshape(-1, target.shape[-1])
        if distance == "cosine":
            raw = -(np.einsum("hwc,tc->hwt", image, vectors) - 1) / 2
        else:
            raw = ((image[:, :, None] - vectors) ** 2).sum(axis=3)
        relative = raw / (raw.min(axis=2, keepdims=True) + 1e-5)
        weights = np.exp((1.0 - relative) / sigma)
        cs = weights / weights.sum(axis=2, keepdims=True)
        losses.append(-np.log(1 - (1 - cs.max(axis=(0, 1)).mean())))
    return np.mean(losses)


def port_definition(x, y, h):
    """The PyTorch port's contextual_loss (cosine) in float64 NumPy: NCHW, centred over the batch."""
    mean = y.mean(axis=(0, 2, 3), keepdims=True)
    batch, channels = x.shape[:2]
    unit = [(f - mean) / np.linalg.norm(f - mean, axis=1, keepdims=True) for f in (x, y)]
    flat = [f.reshape(batch, channels, -1) for f in unit]
    d = 1 - np.matmul(flat[0].transpose(0, 2, 1), flat[1])
    w = np.exp((1 - d / (d.min(axis=2, keepdims=True) + 1e-5)) / h)
    cx = (w / w.sum(axis=2, keepdims=True)).max(axis=1).mean(axis=1)
    return np.mean(-np.log(cx + 1e-5))


@pytest.mark.parametrize("bandwidth", [0.1, 0.5, 1.0])
def test_parity_with_the_reference_implementations(bandwidth):
    source = features(3, 4, 5, 4).numpy()
    # Close pairs: there the eps of each implementation decides the number.
    target = source + 0.1 * features(3, 4, 5, 4, seed=1).numpy()
    pair = torch.from_numpy(source), torch.from_numpy(target)
    mechrez = tensorflow_definition(source.transpose(0, 2, 3, 1), target.transpose(0, 2, 3, 1), bandwidth)
    port = port_definition(source, target, bandwidth)
    kwargs = {"bandwidth": bandwidth}
    assert contextual_loss(*pair, parity="mechrez-tensorflow", **kwargs).item() == pytest.approx(
        mechrez, rel=1e-9
    )
    assert contextual_loss(*pair, parity="pytorch-port", **kwargs).item() == pytest.approx(port, rel=1e-9)
    distinct = {round(mechrez, 9), round(port, 9), round(contextual_loss(*pair, **kwargs).item(), 9)}
    assert len(distinct) == 3


def test_parity_of_the_l2_distance():
    source, target = features(2, 3, 4, 4), features(2, 3, 4, 4, seed=1)
    nhwc = (f.permute(0, 2, 3, 1).numpy() for f in (source, target))
    expected = tensorflow_definition(*nhwc, 0.5, "l2")
    got = contextual_loss(source, target, distance="l2", parity="mechrez-tensorflow")
    assert got.item() == pytest.approx(expected, rel=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.floats(0.05, 2),
    st.sampled_from(["cosine", "l2", "l1"]),
)
def test_range_and_shapes(batch, channels, sizes, bandwidth, distance):
    source = features(batch, channels, sizes[0], sizes[1])
    target = features(batch, channels, sizes[2], sizes[3], seed=1)
    loss = contextual_loss(source, target, bandwidth=bandwidth, distance=distance, reduction="none")
    assert loss.shape == (batch,)
    assert (loss >= -1e-12).all()
    assert (loss <= math.log(sizes[2] * sizes[3]) + 1e-9).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_samples_do_not_see_each_other(batch, seed):
    source, target = features(batch, 3, 3, 3, seed=seed), features(batch, 3, 3, 3, seed=seed + 1)
    together = contextual_loss(source, target, reduction="none")
    alone = [contextual_loss(source[b : b + 1], target[b : b + 1]) for b in range(batch)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-12)
    batched = contextual_loss(source, target, center="batch", reduction="none")
    assert not torch.allclose(batched, together)


def test_identical_features():
    same = features(1, 8, 6, 6)
    assert contextual_loss(same, same).item() == pytest.approx(0, abs=1e-12)
    # The port's eps inside the logarithm makes it negative.
    assert contextual_loss(same, same, parity="pytorch-port").item() == pytest.approx(-1e-5, rel=1e-4)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", ["identical", "constant", "zero", "constant source", "constant target", "huge"]
)
def test_hard_inputs_give_finite_losses_and_gradients(distance, dtype, kind):
    varied = features(2, 4, 4, 3).to(dtype)
    flat = torch.full_like(varied, 0.5)
    source, target = {
        "identical": (varied, varied.clone()),
        "constant": (flat, flat.clone()),
        "zero": (0 * flat, 0 * flat),
        "constant source": (flat, varied),
        "constant target": (varied, flat),
        "huge": (varied * 1e4, varied.flip(2) * 1e4),
    }[kind]
    source, target = source.requires_grad_(), target.requires_grad_()
    loss = contextual_loss(source, target, distance=distance, reduction="none")
    assert loss.isfinite().all()
    assert (loss >= -1e-6).all()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss.sum().backward()
    assert source.grad.isfinite().all()
    assert target.grad.isfinite().all()
    if kind in ("constant", "zero"):
        # Every position has the same feature, so none is more similar than another.
        torch.testing.assert_close(loss, torch.full_like(loss, math.log(12)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance": "l2"},
        {"distance": "l1"},
        {"center": "batch"},
        {"center": "none"},
        {"symmetric": True},
        {"form": "one_minus"},
        {"spatial_weight": 0.2},
        {"parity": "mechrez-tensorflow"},
        {"parity": "pytorch-port"},
    ],
    ids=str,
)
def test_gradcheck(options):
    source = features(2, 3, 3, 2).requires_grad_()
    target = features(2, 3, 2, 4, seed=1).requires_grad_()
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def loss(source, target):
        return contextual_loss(source, target, [0, 2], weights, reduction="none", **options)

    assert torch.autograd.gradcheck(loss, (source, target))


def test_half_precision_is_computed_in_float32():
    source = features(1, 13, 8, 8, dtype=torch.float16)
    target = source + 0.01 * features(1, 13, 8, 8, seed=1, dtype=torch.float16)
    exact = contextual_loss(source.double(), target.double())
    assert contextual_loss(source, target).item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize("channels", [13, 128])
@pytest.mark.parametrize("noise", [0.01, 0.03, 1.0])
def test_float32_is_accurate_on_near_identical_features(channels, noise):
    """Smooth features, the target with some noise: 1 - cos in float32 alone would be off by up to 1e-3."""
    smooth = torch.nn.functional.interpolate(features(1, channels, 6, 6), size=(24, 24), mode="bicubic")
    source = smooth.float()
    target = (smooth + noise * smooth.std() * torch.randn(smooth.shape, generator=torch.Generator())).float()
    for bandwidth in (0.5, 5.0):
        exact = contextual_loss(source.double(), target.double(), bandwidth=bandwidth).item()
        assert contextual_loss(source, target, bandwidth=bandwidth).item() == pytest.approx(
            exact, rel=1e-5, abs=1e-7
        )


def test_memory_formats_agree():
    source, target = features(2, 5, 4, 6), features(2, 5, 4, 6, seed=1)
    last = (f.to(memory_format=torch.channels_last) for f in (source, target))
    torch.testing.assert_close(contextual_loss(*last), contextual_loss(source, target))


def test_nan_propagates_to_its_own_sample_only():
    source, target = features(2, 3, 3, 3), features(2, 3, 3, 3, seed=1)
    source[0, 0, 0, 0] = float("nan")
    loss = contextual_loss(source, target, reduction="none")
    assert loss[0].isnan()
    assert loss[1].isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0}, "bandwidth: expected a finite number above 0"),
        ({"bandwidth": float("nan")}, "bandwidth: expected"),
        ({"distance": "l3"}, "distance: expected one of 'cosine', 'l2', 'l1'"),
        ({"center": "image"}, "center: expected"),
        ({"form": "exp"}, "form: expected"),
        ({"spatial_weight": -1.0}, "spatial_weight: expected"),
        ({"reduction": "median"}, "reduction: expected"),
        ({"parity": "caffe"}, "parity: expected"),
        ({"parity": "pytorch-port", "distance": "l2"}, "distance: expected cosine"),
        ({"parity": "mechrez-tensorflow", "distance": "l1"}, "distance: expected cosine or l2"),
        ({"parity": "pytorch-port", "symmetric": True}, "parity: 'pytorch-port' has neither"),
        ({"channels": [0, 3]}, "channels: expected numbers from 0 to 2"),
        ({"channels": []}, "channels: expected"),
        ({"weights": [1.0]}, "weights: expected one for each of 3 channels"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        contextual_loss(features(1, 3, 2, 2), features(1, 3, 2, 2), **options)


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        (
            torch.zeros(1, 3, 4),
            torch.zeros(1, 3, 4, 4),
            ValueError,
            r"source: expected a non-empty shape \(B, C",
        ),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 0, 4), ValueError, "target: expected a non-empty"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), ValueError, "same batch size and channels"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4), ValueError, "same batch size and channels"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4), TypeError, "got torch.uint8"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, device="meta"), ValueError, "expected one device"),
        ([[1.0]], torch.zeros(1, 3, 4, 4), TypeError, "source: expected a floating-point tensor.*list"),
    ],
)
def test_bad_features_are_named(source, target, error, message):
    with pytest.raises(error, match=message):
        contextual_loss(source, target)
