"""Eq. 1, the LPIPS form and the module classes: values, batches, precision, hard inputs, bad inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pe_runtime as pe
from pe_runtime.functional import contextual_loss, feature_distance, lpips_distance

SQUEEZE_TAPS = ("relu1", "fire3", "fire5")


def images(batch=2, height=40, width=48, seed=0):
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def squeeze():
    return pe.Backbone("squeezenet1_1", SQUEEZE_TAPS, "random")


def modules(backbone, **options):
    return [
        pe.FeatureDistance(backbone, **options),
        pe.LPIPS(backbone, linear=None, **options),
        pe.ContextualLoss(backbone, reduction=options.pop("reduction", "none"), **options),
    ]


def test_equation_1_by_loops():
    first, second = images(2, 3, 4)[:, :2].double(), images(2, 3, 4, seed=1)[:, :2].double()
    weights = [0.5, 3.0]
    for sample in range(2):
        total = 0.0
        for m in range(2):
            for h in range(3):
                for w in range(4):
                    total += (weights[m] * (first[sample, m, h, w] - second[sample, m, h, w]).item()) ** 2
        got = feature_distance(first, second, weights=weights)[sample].item()
        assert got == pytest.approx(total / (2 * 3 * 4), rel=1e-12)


def test_lpips_form_by_loops():
    first, second = images(1, 2, 3, seed=2).double(), images(1, 2, 3, seed=3).double()
    linear = [0.2, 0.0, 1.5]
    total = 0.0
    for h in range(2):
        for w in range(3):
            a, b = first[0, :, h, w].numpy(), second[0, :, h, w].numpy()
            a, b = a / np.sqrt((a**2).sum()), b / np.sqrt((b**2).sum())
            total += float((np.array(linear) * (a - b) ** 2).sum())
    assert lpips_distance(first, second, linear=linear).item() == pytest.approx(total / 6, rel=1e-9)


@pytest.mark.parametrize("function", [feature_distance, lpips_distance])
def test_channel_selection_and_reductions(function):
    first, second = images(3, 5, 5), images(3, 5, 5, seed=1)
    each = function(first, second, channels=[0, 2])
    torch.testing.assert_close(each, function(first[:, [0, 2]], second[:, [0, 2]]))
    assert not torch.allclose(each, function(first, second))
    torch.testing.assert_close(function(first, second, channels=[0, 2], reduction="mean"), each.mean())
    torch.testing.assert_close(function(first, second, channels=[0, 2], reduction="sum"), each.sum())


@pytest.mark.parametrize("function", [feature_distance, lpips_distance])
def test_functions_pass_gradcheck(function):
    first = images(2, 2, 3).double().requires_grad_()
    second = images(2, 2, 3, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: function(a, b, [0, 2]), (first, second))


def test_functions_refuse_maps_of_different_size():
    with pytest.raises(ValueError, match="reference and distorted: expected the same shape"):
        feature_distance(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))


def test_modules_are_the_functions_on_features(squeeze):
    first, second = images(), images(seed=1)
    one, two = squeeze(first), squeeze(second)
    distance, lpips, contextual = modules(squeeze)
    mean = sum(feature_distance(one[tap], two[tap]) for tap in SQUEEZE_TAPS) / 3
    torch.testing.assert_close(distance(first, second), mean)
    total = sum(lpips_distance(one[tap], two[tap]) for tap in SQUEEZE_TAPS)
    torch.testing.assert_close(lpips(first, second), total)
    loss = sum(contextual_loss(two[tap], one[tap], reduction="none") for tap in SQUEEZE_TAPS) / 3
    torch.testing.assert_close(contextual(second, first), loss)


def test_tap_weights(squeeze):
    first, second = images(), images(seed=1)
    one, two = squeeze(first), squeeze(second)
    weights = {"relu1": 2.0, "fire3": 0.0, "fire5": 0.5}
    got = pe.FeatureDistance(squeeze, tap_weights=weights)(first, second)
    expected = sum(w * feature_distance(one[tap], two[tap]) for tap, w in weights.items())
    torch.testing.assert_close(got, expected)


def test_channel_sets_of_the_backbone_are_used(squeeze):
    chosen = pe.ChannelSet([1, 30, 77], [0.5, 1.0, 2.0])
    small = pe.Backbone("squeezenet1_1", {"fire3": chosen}, "random")
    first, second = images(), images(seed=1)
    full = squeeze(first)["fire3"], squeeze(second)["fire3"]
    torch.testing.assert_close(
        pe.FeatureDistance(small)(first, second),
        feature_distance(*full, channels=chosen.indices, weights=chosen.weights),
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize("index", range(3))
def test_score_of_a_pair_depends_on_nothing_but_the_pair(squeeze, index):
    metric = modules(squeeze)[index]
    first, second = images(3), images(3, seed=1)
    together = metric(first, second)
    alone = torch.cat([metric(first[b : b + 1], second[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)
    assert together.unique().numel() == 3


@pytest.mark.parametrize("index", range(3))
def test_score_does_not_depend_on_the_number_of_threads(squeeze, index):
    metric = modules(squeeze)[index]
    pair = images(1, 96, 96), images(1, 96, 96, seed=1)
    before = torch.get_num_threads()
    scores = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scores.append(metric(*pair).item())
    finally:
        torch.set_num_threads(before)
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("index", range(3))
def test_maps(squeeze, index):
    metric = modules(squeeze)[index]
    first = images()
    second = first.clone()
    second[:, :, :20, :24] = images(seed=1)[:, :, :20, :24]
    score, difference = metric.score_and_map(first, second)
    assert difference.shape == (2, 1, *squeeze(first)["relu1"].shape[2:])
    assert (difference >= 0).all()
    rows, columns = difference.shape[2:]
    changed = difference[:, :, : rows // 2, : columns // 2].mean()
    assert changed > 4 * difference[:, :, rows // 2 + 4 :, columns // 2 + 4 :].mean()
    # The contextual loss is called with the prediction first.
    torch.testing.assert_close(score, metric(*((first, second) if index < 2 else (second, first))))


def test_the_mean_of_a_single_taps_map_is_the_score():
    backbone = pe.Backbone("squeezenet1_1", ["fire3"], "random")
    first, second = images(), images(seed=1)
    for metric in modules(backbone)[:2]:
        score, difference = metric.score_and_map(first, second)
        torch.testing.assert_close(difference.mean(dim=(1, 2, 3)), score)
    contextual = pe.ContextualLoss(backbone, form="one_minus", reduction="none")
    score, difference = contextual.score_and_map(first, second)
    torch.testing.assert_close(difference.mean(dim=(1, 2, 3)), score)
    torch.testing.assert_close(score, contextual(second, first))


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("name", ["gabor", "squeezenet1_1"])
@pytest.mark.parametrize("kind", ["identical", "constant", "black", "white", "black and white"])
def test_hard_images_give_finite_scores_and_gradients(name, index, kind):
    taps, weights = (["scale2", "scale3"], "default") if name == "gabor" else (["relu1", "fire3"], "random")
    metric = modules(pe.Backbone(name, taps, weights))[index]
    varied = images(1, 32, 32)
    reference, distorted = {
        "identical": (varied, varied.clone()),
        "constant": (torch.full_like(varied, 0.3), torch.full_like(varied, 0.3)),
        "black": (torch.zeros_like(varied), torch.zeros_like(varied)),
        "white": (torch.ones_like(varied), torch.ones_like(varied)),
        "black and white": (torch.zeros_like(varied), torch.ones_like(varied)),
    }[kind]
    distorted = distorted.requires_grad_()
    pair = (reference, distorted) if index < 2 else (distorted, reference)
    score = metric(*pair)
    assert score.isfinite().all()
    if kind != "black and white" and index < 2:
        assert score.item() == 0
    score.sum().backward()
    assert distorted.grad.isfinite().all()


@pytest.mark.parametrize("index", range(3))
def test_gradients_of_modules(index):
    backbone = pe.Backbone("squeezenet1_1", {"relu1": pe.ChannelSet([3, 9, 40])}, "random").double()
    metric = modules(backbone)[index].double()
    reference = images(1, 11, 9).double()
    distorted = images(1, 11, 9, seed=1).double().requires_grad_()
    call = (lambda d: metric(reference, d)) if index < 2 else (lambda d: metric(d, reference))
    assert torch.autograd.gradcheck(call, (distorted,), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("index", range(3))
def test_half_precision_images_are_computed_in_float32(squeeze, dtype, index):
    metric = modules(squeeze)[index]
    pair = images().to(dtype), images(seed=1).to(dtype)
    half = metric(*pair)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, metric(*(i.float() for i in pair)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("index", range(3))
def test_autocast_changes_nothing(squeeze, index):
    metric = modules(squeeze)[index]
    pair = images(), images(seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = metric(*pair)
    torch.testing.assert_close(inside, metric(*pair))


@pytest.mark.parametrize("index", range(3))
def test_channels_last_images(squeeze, index):
    metric = modules(squeeze)[index]
    pair = images(), images(seed=1)
    last = (i.to(memory_format=torch.channels_last) for i in pair)
    torch.testing.assert_close(metric(*last), metric(*pair), rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 3), st.integers(17, 60), st.integers(17, 60), st.sampled_from(["none", "mean", "sum"]))
def test_shapes_and_reductions(squeeze, batch, height, width, reduction):
    pair = images(batch, height, width), images(batch, height, width, seed=1)
    for metric in modules(squeeze, reduction=reduction):
        score = metric(*pair)
        assert score.shape == ((batch,) if reduction == "none" else ())
        metric.reduction = "none"
        expected = {"none": lambda s: s, "mean": torch.mean, "sum": torch.sum}[reduction](metric(*pair))
        torch.testing.assert_close(score, expected)


def test_contextual_loss_of_images_of_different_size(squeeze):
    loss = pe.ContextualLoss(squeeze)(images(2, 40, 48), images(2, 36, 30, seed=1))
    assert loss.isfinite()
    with pytest.raises(ValueError, match="prediction and target: expected the same batch size, got 1 and 2"):
        pe.ContextualLoss(squeeze)(images(1), images(2))


@pytest.mark.parametrize(
    ("reference", "distorted", "error", "message"),
    [
        (images().numpy(), images(), TypeError, "reference: expected a torch.Tensor.*ndarray"),
        ((images() * 255).byte(), images(), TypeError, "reference: expected floating-point.*divide 8-bit"),
        (images()[0], images(), ValueError, r"reference: expected shape \(B, 3, H, W\)"),
        (images(), images()[:, :1], ValueError, "distorted: expected shape"),
        (images(), images()[:0], ValueError, "distorted: expected at least one image"),
        (images(), images() * 255, ValueError, r"distorted: expected values in \[0, 1\]"),
        (images() - 1, images(), ValueError, r"reference: expected values in \[0, 1\]"),
        (images() * float("nan"), images(), ValueError, r"reference: expected values in \[0, 1\]"),
        (
            images(2, 40, 48),
            images(2, 40, 47),
            ValueError,
            "reference and distorted: expected the same shape",
        ),
        (images(1, 2, 48), images(1, 2, 48), ValueError, "reference: expected height and width of at least"),
    ],
)
def test_bad_images_are_named(squeeze, reference, distorted, error, message):
    for metric in (pe.FeatureDistance(squeeze), pe.LPIPS(squeeze, linear=None)):
        with pytest.raises(error, match=message):
            metric(reference, distorted)


def test_training_losses_take_values_out_of_range_and_propagate_nan(squeeze):
    loss = pe.ContextualLoss(squeeze, reduction="none")
    prediction = images() * 1.2 - 0.1
    prediction[0, 0, 0, 0] = float("nan")
    values = loss(prediction, images(seed=1))
    assert values[0].isnan()
    assert values[1].isfinite()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda b: pe.FeatureDistance("vgg16"), TypeError, "backbone: expected a pe_runtime.Backbone"),
        (
            lambda b: pe.FeatureDistance(b, tap_weights={"fire3": 1}),
            ValueError,
            "tap_weights: expected one for each",
        ),
        (
            lambda b: pe.FeatureDistance(b, tap_weights=dict.fromkeys(SQUEEZE_TAPS, 0)),
            ValueError,
            "not all of them 0",
        ),
        (lambda b: pe.FeatureDistance(b, reduction="max"), ValueError, "reduction: expected"),
        (lambda b: pe.LPIPS("resnet"), ValueError, "network: expected one of 'alex', 'squeeze', 'vgg'"),
        (lambda b: pe.LPIPS(b), ValueError, "linear: expected a network among"),
        (lambda b: pe.LPIPS(b, linear={"fire3": [1.0]}), ValueError, "linear: expected weights for each of"),
        (
            lambda b: pe.LPIPS(b, linear={key: [1.0] for key in SQUEEZE_TAPS}),
            ValueError,
            "linear: expected 64 finite numbers >= 0 for tap 'relu1'",
        ),
        (lambda b: pe.ContextualLoss(b, bandwidth=-1), ValueError, "bandwidth: expected"),
        (
            lambda b: pe.TotalLoss(torch.nn.MSELoss(), alpha=1.5),
            ValueError,
            "alpha: expected a number from 0 to 1",
        ),
        (
            lambda b: pe.TotalLoss(pe.ContextualLoss(b, reduction="sum")),
            ValueError,
            "reduction: expected that of",
        ),
    ],
)
def test_bad_construction_is_named(squeeze, build, error, message):
    with pytest.raises(error, match=message):
        build(squeeze)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equation_9(squeeze, alpha):
    contextual = pe.ContextualLoss(squeeze, reduction="none")
    prediction, target = images(), images(seed=1)
    mse = ((prediction - target) ** 2).mean(dim=(1, 2, 3))
    expected = alpha * mse + (1 - alpha) * contextual(prediction, target)
    torch.testing.assert_close(
        pe.TotalLoss(contextual, alpha, reduction="none")(prediction, target), expected
    )
    with pytest.raises(ValueError, match="prediction and target: expected the same shape"):
        pe.TotalLoss(contextual, alpha, reduction="none")(prediction, target[:, :, 1:])


@pytest.mark.parametrize("index", range(3))
def test_modules_compile_as_one_graph(squeeze, index):
    """Checks of values must not break the graph; sizes stay dynamic."""
    metric = modules(squeeze)[index]
    compiled = torch.compile(metric, fullgraph=True, dynamic=True, backend="eager")
    for height, width in ((40, 48), (56, 37)):
        pair = images(2, height, width), images(2, height, width, seed=1)
        torch.testing.assert_close(compiled(*pair), metric(*pair))


def test_modules_have_no_state_but_weights(squeeze):
    for metric in modules(squeeze):
        assert all(name.startswith("backbone.") for name in metric.state_dict())
        assert not any(p.requires_grad for p in metric.parameters())
        assert not metric.train().backbone.training


def test_missing_lpips_package_is_explained(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install pe_runtime\[lpips\]"):
        pe.LPIPS("squeeze", weights="random")


def package_metric(network, state):
    """The lpips package's own metric, with the weights of our backbone in its network."""
    lpips = pytest.importorskip("lpips")
    theirs = lpips.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
    own = theirs.net.state_dict()
    renamed = {key: state[f"features.{key.split('.', 1)[1]}"] for key in own}
    theirs.net.load_state_dict(renamed)
    return theirs


@pytest.mark.parametrize("network", ["squeeze", "alex", "vgg"])
def test_lpips_equals_the_package(network):
    """With equal backbone weights and its own linear weights; their input is in [-1, 1]."""
    torchvision = pytest.importorskip("torchvision")
    name, _ = pe.metrics.LPIPS_NETWORKS[network]
    torch.manual_seed(0)
    state = getattr(torchvision.models, name)(weights=None).features.state_dict()
    state = {f"features.{key}": value for key, value in state.items()}
    theirs = package_metric(network, state)
    ours = pe.LPIPS(network, weights=state)
    first, second = images(2, 70, 66), images(2, 70, 66, seed=1)
    with torch.inference_mode():
        expected = theirs(2 * first - 1, 2 * second - 1).flatten()
        torch.testing.assert_close(ours(first, second), expected, rtol=1e-4, atol=1e-7)


def test_lpips_equals_the_package_with_published_weights(shared):
    from PIL import Image
    from safetensors.torch import load_file

    path = shared / "weights" / "squeezenet1_1.safetensors"
    theirs = package_metric("squeeze", {k: v.float() for k, v in load_file(path).items()})
    ours = pe.LPIPS("squeeze", weights=path)
    photo = np.asarray(Image.open(sorted((shared / "images" / "kodak").glob("*.png"))[0]).convert("RGB"))
    first = torch.from_numpy(photo[:256, :256].copy()).permute(2, 0, 1)[None] / 255
    second = torch.nn.functional.avg_pool2d(first, 3, 1, 1)
    with torch.inference_mode():
        expected = theirs(2 * first - 1, 2 * second - 1).item()
        assert ours(first, second).item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.01
