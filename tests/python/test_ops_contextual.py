"""The contextual operator against the definition in float64: values, gradients, layouts, memory."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from operators import DEVICE, ROW_SUMS, features, normal

from pe_runtime import Backbone, ops, reference
from pe_runtime.functional import contextual_and_map, contextual_loss, contextual_settings


def smooth_pair(channels, noise, size=24, batch=1):
    """Smooth features like those of photographs; the target with noise, or another image ("unrelated")."""
    smooth = F.interpolate(features(batch, channels, 6, 6), size=(size, size), mode="bicubic")
    if noise == "unrelated":
        target = F.interpolate(features(batch, channels, 6, 6, seed=1), size=(size, size), mode="bicubic")
    else:
        target = smooth + noise * smooth.std() * normal(*smooth.shape, seed=2)
    return smooth, target


def losses_and_gradients(source, target, kernels, **options):
    source, target = source.clone().requires_grad_(), target.clone().requires_grad_()
    loss = contextual_loss(source, target, reduction="none", kernels=kernels, **options)
    upstream = torch.linspace(1, 2, len(loss), dtype=loss.dtype, device=DEVICE)
    return (loss.detach(), *torch.autograd.grad(loss, (source, target), upstream))


def relative_error(got, exact):
    return ((got.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("channels", [13, 64, 128])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0, "unrelated"])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_float32_is_accurate(channels, noise, distance):
    source, target = (f.float() for f in smooth_pair(channels, noise))
    for bandwidth in (0.5, 5.0):
        options = {"bandwidth": bandwidth, "distance": distance}
        exact = losses_and_gradients(source.double(), target.double(), "reference", **options)
        got = losses_and_gradients(source, target, "native", **options)
        assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-5, abs=1e-11)
        for gradient, expected in zip(got[1:], exact[1:], strict=True):
            assert relative_error(gradient, expected) < 1e-4


def gradient_errors(source, target, bandwidth, distance):
    """Norms of the errors of the kernels, to the source and to the target, and the norms of what is right.

    Right is the definition in float64. Where several rows win a column, or several columns are nearest to a
    row, but for rounding, any of them may: the definition takes those that the kernels took, which must not
    be worse than its own by more than 1e-5.
    """
    statistics = torch.ops.pe_runtime.contextual(source, target, bandwidth=bandwidth, distance=distance)
    winners, nearest = (statistics[n].flatten(1).long() for n in (2, 4))
    wide = [features.double().requires_grad_() for features in (source, target)]
    distances = reference._DISTANCES[distance](*wide, "sample")
    least = distances.gather(2, nearest[:, :, None])
    assert ((least - distances.min(dim=2, keepdim=True).values) / (least + 1e-5)).max() < 1e-5
    similarities = torch.log_softmax(-distances / (bandwidth * (least + 1e-5)), dim=2)
    attained = similarities.gather(1, winners[:, None])
    assert (similarities.max(dim=1, keepdim=True).values - attained).max() < 1e-5
    loss = -attained.exp().mean(dim=2).log()
    exact = torch.autograd.grad(loss.sum(), wide)
    got = losses_and_gradients(source, target, "native", bandwidth=bandwidth, distance=distance)
    assert got[0].item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-7)
    errors = [(g - e).norm().item() for g, e in zip(got[1:], exact, strict=True)]
    return errors, [e.norm().item() for e in exact]


def test_no_gradient_where_a_feature_equals_several():
    target = torch.tensor([1.0, 0.0, 0.0], device=DEVICE).reshape(1, 1, 1, 3)
    for bandwidth in (0.05, 0.5, 5.0):
        source = torch.tensor([0.3, 0.0], device=DEVICE).reshape(1, 1, 1, 2).requires_grad_()
        contextual_loss(source, target, bandwidth=bandwidth, distance="l2", kernels="native").backward()
        assert source.grad[0, 0, 0, 1] == 0
        assert source.grad[0, 0, 0, 0] < 0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 4),
    st.tuples(*[st.integers(2, 8)] * 4),
    st.sampled_from([0.05, 0.5, 5.0, 20.0]),
    st.sampled_from(["cosine", "l2"]),
)
def test_sparse_sources_have_the_gradient_of_the_definition(
    seed, channels, kinds, sizes, bandwidth, distance
):
    # Most of the source is 0, as behind a ReLU, and the target has few features, many times each.
    source = features(1, channels, *sizes[:2], seed=seed)
    source = (source * (features(1, 1, *sizes[:2], seed=seed + 1) > 0.7)).float()
    palette = features(1, channels, kinds, seed=seed + 2)
    palette[:, :, 0] = 0
    picks = (features(sizes[2] * sizes[3], seed=seed + 3) * kinds).long()
    target = palette[:, :, picks].reshape(1, channels, *sizes[2:]).float()
    errors, norms = gradient_errors(source, target, bandwidth, distance)
    # Single terms are multiplied by as much as 2e6: their rounding is left where all else cancels.
    assert errors[0] < 1e-4 * norms[0] + 5e-5
    # A target of one feature has no length after centring, and divides its gradient by 1e-6: docs/kernels.md.
    if (target != target[:, :, :1, :1]).any():
        assert errors[1] < 1e-4 * sum(norms) + 5e-4


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("bandwidth", [0.05, 0.5, 5.0, 20.0])
@pytest.mark.parametrize("kind", ["half flat", "bars", "quantised", "noise"])
def test_flat_images_have_the_gradient_of_the_definition(kind, bandwidth, distance):
    # Smooth and rough images of 48 x 48 pixels through gabor, which needs no weights.
    smooth = F.interpolate(features(1, 3, 6, 6), size=(48, 48), mode="bicubic").clamp(0, 1)
    rough = (smooth + 0.05 * normal(*smooth.shape, seed=1)).clamp(0, 1)
    pair = [rough, smooth]
    for image in pair:
        if kind == "bars":
            image[..., :32, :] = (torch.arange(48, device=DEVICE) // 8 % 3 / 2.0).expand(32, 48)
        elif kind == "quantised":
            image.copy_((image * 3).round() / 3)
        else:
            image[..., 24:] = 0.5
    if kind == "noise":
        pair[0] = (pair[0] + 1e-3 * normal(*smooth.shape, seed=2)).clamp(0, 1)
    network = Backbone("gabor", taps=["scale2"]).to(DEVICE)
    with torch.no_grad():
        source, target = (network(image.float())["scale2"] for image in pair)
    errors, norms = gradient_errors(source, target, bandwidth, distance)
    assert all(error < 1e-4 * norm for error, norm in zip(errors, norms, strict=True))


@pytest.mark.parametrize("factor", [1e19, 1e20, 1e150])
def test_l2_in_float64_beyond_the_largest_float32(factor):
    source, target = factor * features(2, 5, 4, 6), factor * features(2, 5, 3, 7, seed=1)
    exact = losses_and_gradients(source, target, "reference", distance="l2")
    got = losses_and_gradients(source, target, "native", distance="l2")
    torch.testing.assert_close(got[0], exact[0], rtol=1e-9, atol=0)
    for gradient, expected in zip(got[1:], exact[1:], strict=True):
        torch.testing.assert_close(gradient * factor, expected * factor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("factor", "dtype"), [(1e20, torch.float32), (1e160, torch.float64)])
def test_l2_distances_that_overflow_give_nan_as_the_definition_does(factor, dtype):
    source, target = features(2, 5, 4, 6, dtype=dtype), features(2, 5, 3, 7, seed=1, dtype=dtype)
    clean = losses_and_gradients(source, target, "native", distance="l2")
    for rows in (1, 4):
        huge = source.clone()
        huge[1, :, :rows] *= factor
        for kernels in ("native", "reference"):
            loss, *_ = losses_and_gradients(huge, target, kernels, distance="l2")
            assert loss[1].isnan()
        got = losses_and_gradients(huge, target, "native", distance="l2")
        assert all(values[1].isnan().all() for values in got)
        assert all(torch.equal(values[0], before[0]) for values, before in zip(got, clean, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.tuples(*[st.integers(1, 9)] * 4),
    st.floats(0.05, 2),
    st.sampled_from(["cosine", "l2"]),
    st.sampled_from(["sample", "batch", "none"]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(["log", "one_minus"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_equals_the_definition(
    batch, channels, sizes, bandwidth, distance, center, spatial, form, symmetric, random
):
    source = features(batch, channels, sizes[0], sizes[1], seed=random.randrange(10**6))
    target = features(batch, channels, sizes[2], sizes[3], seed=random.randrange(10**6))
    chosen = random.sample(range(channels), random.randint(1, channels)) if random.random() < 0.5 else None
    count = channels if chosen is None else len(chosen)
    options = {
        "channels": chosen,
        "weights": [random.uniform(0.1, 3) for _ in range(count)] if random.random() < 0.5 else None,
        "bandwidth": bandwidth,
        "distance": distance,
        "center": center,
        "spatial_weight": spatial,
        "form": form,
        "symmetric": symmetric,
    }
    exact = losses_and_gradients(source, target, "reference", **options)
    got = losses_and_gradients(source, target, "native", **options)
    torch.testing.assert_close(got[0], exact[0], rtol=1e-8, atol=1e-12)
    if (
        count > 1
    ):  # the cosine of one channel is 1 or -1: all positions tie, and gradients are rounding errors
        torch.testing.assert_close(
            got[1:], exact[1:], rtol=1e-6, atol=1e-9 * (1 + exact[1].abs().max().item())
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance": "l2"},
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
def test_gradcheck_through_loss_and_map(options):
    source = features(2, 3, 3, 2).requires_grad_()
    target = features(2, 3, 2, 4, seed=1).requires_grad_()
    constants = contextual_settings(**options)

    def both(source, target):
        return contextual_and_map(source, target, constants, [0, 2], [0.5, 2.0], "native")

    assert torch.autograd.gradcheck(both, (source, target))
    assert torch.autograd.gradcheck(lambda s, t: both(s, t)[0], (source, target))
    assert torch.autograd.gradcheck(lambda s, t: both(s, t)[1], (source, target))


def test_map_and_statistics():
    source, target = features(2, 5, 4, 6), features(2, 5, 3, 5, seed=1)
    loss, similarity = contextual_and_map(source, target, contextual_settings(), kernels="native")
    expected = contextual_and_map(source, target, contextual_settings(), kernels="reference")
    torch.testing.assert_close((loss, similarity), expected)
    _, log_similarity, arg, row_min, row_min_arg, row_log_sum, row_sums = torch.ops.pe_runtime.contextual(
        source, target, row_sums=ROW_SUMS
    )
    centre = target.mean(dim=(2, 3), keepdim=True)
    x, y = (F.normalize((f - centre).flatten(2), dim=1) for f in (source, target))
    distances = 1 - x.transpose(1, 2) @ y
    nearest = distances.min(dim=2)
    rows = -(distances - nearest.values[..., None]) / (0.5 * (nearest.values[..., None] + 1e-5))
    torch.testing.assert_close(row_min.flatten(1), nearest.values)
    torch.testing.assert_close(row_log_sum.flatten(1), rows.logsumexp(dim=2))
    best = rows.log_softmax(dim=2).max(dim=1)
    torch.testing.assert_close(log_similarity.flatten(1), best.values)
    assert torch.equal(row_min_arg.flatten(1), nearest.indices.int())
    assert torch.equal(arg.flatten(1), best.indices.int())
    if not ROW_SUMS:
        assert row_sums.shape == (0,)
        return
    others = rows.exp().scatter(2, nearest.indices[..., None], 0.0)
    y = y.transpose(1, 2)
    closest = y.gather(1, nearest.indices[..., None].expand(-1, -1, y.shape[2]))
    sums = others @ y - others.sum(2, keepdim=True) * closest
    torch.testing.assert_close(row_sums.flatten(1, 2)[..., :-1], sums)
    torch.testing.assert_close(row_sums.flatten(1, 2)[..., -1], -(others * rows).sum(2))


@pytest.mark.cpu_kernels("others keep no sums")
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("noise", [0.02, 0.3, "unrelated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_backward_gives_the_same_with_and_without_the_sums_of_forward(distance, noise, dtype):
    source, target = (f.to(dtype) for f in smooth_pair(13, noise, batch=2))
    target = target[:, :, 1:]
    call = torch.ops.pe_runtime
    constants = (0.5, distance, "sample", 0.1, "log", 1e-5, 0.0)
    gradients = []
    for row_sums in (False, True):
        loss, *saved = call.contextual(source, target, None, None, *constants, row_sums)
        upstream = torch.ones_like(loss), None, source, target, None, None
        for target_needed in (False, True):
            gradients.append(
                call.contextual_backward(*upstream, *saved, *constants, "highest", True, target_needed)
            )
    exact = 1e-12 if dtype == torch.float64 else 1e-2 if dtype == torch.bfloat16 else 2e-6
    for other in gradients[1:]:
        assert relative_error(other[0], gradients[0][0]) < exact
    assert relative_error(gradients[3][1], gradients[1][1]) < exact


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_ties_go_to_the_lowest_index(distance):
    source, target = features(1, 6, 4, 4).float(), features(1, 6, 4, 4, seed=1).float()
    source[..., 2:], target[..., 2:] = source[..., :2], target[..., :2]
    _, _, arg, _, row_min_arg, *_ = torch.ops.pe_runtime.contextual(source, target, distance=distance)
    assert (arg % 4 < 2).all()
    assert (row_min_arg % 4 < 2).all()
    exact = losses_and_gradients(source.double(), target.double(), "reference", distance=distance)
    got = losses_and_gradients(source, target, "native", distance=distance)
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in got)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", ops.DTYPES)
@pytest.mark.parametrize("kind", ["identical", "constant", "zero", "zero source", "zero positions", "huge"])
def test_hard_inputs(distance, dtype, kind):
    varied = features(2, 4, 4, 3).to(dtype)
    holed = varied.clone()
    holed[:, :, 1:3] = 0
    source, target = {
        "identical": (varied, varied.clone()),
        "constant": (torch.full_like(varied, 0.5), torch.full_like(varied, 0.5)),
        "zero": (0 * varied, 0 * varied),
        "zero source": (0 * varied, varied),
        "zero positions": (holed, varied.flip(3)),
        "huge": (varied * 1e4, varied.flip(2) * 1e4),
    }[kind]
    options = {"distance": distance, "center": "none" if kind == "zero positions" else "sample"}
    got = losses_and_gradients(source, target, "native", **options)
    assert all(values.isfinite().all() for values in got)
    assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got[1].dtype == got[2].dtype == dtype
    exact = losses_and_gradients(source.double(), target.double(), "reference", **options)[0]
    torch.testing.assert_close(got[0].double(), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_very_large_features(distance):
    """Squares of which float32 does not have."""
    source, target = (
        f.float() * (1e25 if distance == "cosine" else 1e15) for f in smooth_pair(8, 0.1, size=8)
    )
    exact = losses_and_gradients(source.double(), target.double(), "reference", distance=distance)
    got = losses_and_gradients(source, target, "native", distance=distance)
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-5, abs=1e-9)


def test_one_position_and_one_channel():
    one = features(2, 3, 1, 1).requires_grad_()
    loss = contextual_loss(one, features(2, 3, 1, 1, seed=1), reduction="none", kernels="native")
    assert torch.equal(loss, torch.zeros_like(loss))
    loss.sum().backward()
    assert torch.equal(one.grad, torch.zeros_like(one))
    source, target = features(1, 1, 3, 3), features(1, 1, 3, 4, seed=1)
    expected = contextual_loss(source, target, kernels="reference")
    torch.testing.assert_close(contextual_loss(source, target, kernels="native"), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["source", "target"])
def test_nan_goes_to_its_own_sample(bad, where):
    pair = {"source": features(3, 4, 3, 3), "target": features(3, 4, 3, 5, seed=1)}
    clean = losses_and_gradients(**pair, kernels="native")
    pair[where][1, 2, 1, 1] = bad
    got = losses_and_gradients(**pair, kernels="native")
    for values, expected in zip(got, clean, strict=True):
        assert values[1].isnan().all()
        assert torch.equal(values[::2], expected[::2])
    similarity = contextual_and_map(**pair, settings=contextual_settings(), kernels="native")[1]
    assert similarity[1].isnan().all()
    assert similarity[::2].isfinite().all()
    unread = contextual_loss(**pair, channels=[0, 1, 3], reduction="none", kernels="native")
    assert unread.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_storage_is_computed_in_float32(dtype):
    source, target = (f.to(dtype) for f in smooth_pair(13, 0.1))
    exact = losses_and_gradients(source.double(), target.double(), "reference")
    got = losses_and_gradients(source, target, "native")
    assert got[0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    for gradient, expected in zip(got[1:], exact[1:], strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient, expected) < torch.finfo(dtype).eps
    mixed = contextual_loss(source.float(), target, kernels="native")
    assert mixed.item() == pytest.approx(exact[0].item(), rel=1e-5)


LAYOUTS = {
    "channels last": lambda f: f.to(memory_format=torch.channels_last),
    "every second channel": lambda f: f.repeat_interleave(2, 1)[:, ::2],
    "every second column": lambda f: f.repeat_interleave(2, 3)[..., ::2],
    "every second row": lambda f: f.repeat_interleave(2, 2)[:, :, ::2],
    "columns first": lambda f: f.transpose(2, 3).contiguous().transpose(2, 3),
    "batch inside": lambda f: f.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "part of a larger map": lambda f: F.pad(f, (2, 3, 1, 1))[..., 1:-1, 2:-3],
}


@pytest.mark.parametrize("dtype", ops.DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(layout, dtype):
    source, target = features(2, 11, 7, 5).to(dtype), features(2, 11, 6, 9, seed=1).to(dtype)
    options = {"channels": [1, 4, 5, 9, 2], "weights": [0.5, 1, 2, 1, 3]}
    expected = losses_and_gradients(source, target, "native", **options)
    relaid = LAYOUTS[layout](source), LAYOUTS[layout](target)
    loss, *gradients = losses_and_gradients(*relaid, "native", **options)
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradients[0], expected[1])
    assert torch.equal(gradients[1], expected[2])
    mixed = losses_and_gradients(relaid[0], target, "native", **options)
    assert all(map(torch.equal, mixed, expected))


def test_gradients_have_the_memory_format_of_the_features():
    source = features(2, 8, 5, 6).to(memory_format=torch.channels_last)
    gradients = losses_and_gradients(source, features(2, 8, 4, 4), "native")[1:]
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    assert gradients[1].is_contiguous()


@pytest.mark.cpu_kernels("the number of threads")
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_thread_counts_give_the_same_bits(distance, noise):
    source, target = (f.float() for f in smooth_pair(13, noise, size=40, batch=2))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(losses_and_gradients(source, target, "native", distance=distance))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


def test_samples_do_not_see_each_other():
    source, target = features(3, 6, 5, 5).float(), features(3, 6, 4, 7, seed=1).float()
    together = contextual_loss(source, target, reduction="none", kernels="native")
    alone = [contextual_loss(source[b : b + 1], target[b : b + 1], kernels="native") for b in range(3)]
    assert torch.equal(together, torch.stack(alone))


MEMORY = """
import sys, torch
from pe_runtime.functional import contextual_loss
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
def step(side):
    pair = [torch.rand(1, 13, side, side, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    pair = [f.requires_grad_() for f in pair]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again here
    before = status("VmRSS")
    contextual_loss(*pair, kernels="native").backward()
    assert all(f.grad.isfinite().all() for f in pair)
    return status("VmHWM") - before
step(16)
print(step(256))
"""


@pytest.mark.cpu_kernels("memory of the process")
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_memory_of_65536_positions():
    """One matrix of all pairs would be 17 GB."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 500_000
