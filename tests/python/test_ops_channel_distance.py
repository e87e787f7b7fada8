"""The channel-distance operator against Eq. 1 and the LPIPS form in float64: values, gradients."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from operators import DEVICE, features, normal

from pe_runtime import ops
from pe_runtime.functional import difference_and_map, feature_distance, lpips_and_map, lpips_distance

FORMS = {"squared": difference_and_map, "unit": lpips_and_map}


def everything(form, first, second, kernels, channels=None, factors=None, of_map=True):
    """Distance, map and both gradients, of an upstream gradient of the distance and, if asked, the map."""
    first, second = first.clone().requires_grad_(), second.clone().requires_grad_()
    distance, map_ = FORMS[form](first, second, channels, factors, kernels=kernels)
    total = (distance * torch.linspace(1, 2, len(distance), dtype=distance.dtype, device=DEVICE)).sum()
    if of_map:
        total = total + (map_ * features(*map_.shape, seed=9, dtype=map_.dtype)).sum()
    return (distance.detach(), map_.detach(), *torch.autograd.grad(total, (first, second)))


def relative_error(got, exact):
    return ((got.double() - exact).norm() / exact.norm()).item()


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(list(FORMS)),
    st.integers(1, 3),
    st.integers(1, 40),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_equals_the_definition(form, batch, channels, size, last, of_map, random):
    first = features(batch, channels, *size, seed=random.randrange(10**6))
    second = features(batch, channels, *size, seed=random.randrange(10**6))
    if last:
        first, second = (f.contiguous(memory_format=torch.channels_last) for f in (first, second))
    chosen = random.sample(range(channels), random.randint(1, channels)) if random.random() < 0.5 else None
    count = channels if chosen is None else len(chosen)
    factors = [random.uniform(0, 3) for _ in range(count)] if random.random() < 0.5 else None
    exact = everything(form, first, second, "reference", chosen, factors, of_map)
    got = everything(form, first, second, "native", chosen, factors, of_map)
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_float32_is_accurate(form, noise):
    first = F.interpolate(features(2, 64, 6, 6), size=(30, 31), mode="bicubic")
    pair = first.float(), (first + noise * first.std() * normal(*first.shape, seed=2)).float()
    exact = everything(form, *(f.double() for f in pair), "reference")
    for values, expected in zip(everything(form, *pair, "native"), exact, strict=True):
        assert relative_error(values, expected) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form):
    pair = features(2, 4, 3, 5).requires_grad_(), features(2, 4, 3, 5, seed=1).requires_grad_()
    call = lambda first, second: FORMS[form](first, second, [0, 3, 2], [0.5, 2.0, 1.0], kernels="native")  # noqa: E731
    assert torch.autograd.gradcheck(call, pair)


@pytest.mark.parametrize("dtype", ops.DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind", ["identical", "zero", "zero first", "zero second", "small first", "holes", "huge"]
)
def test_hard_inputs(form, dtype, kind):
    varied, other = features(2, 7, 5, 6).to(dtype), features(2, 7, 5, 6, seed=1).to(dtype)
    holed = varied.clone()
    holed[:, :, 1:3] = 0
    first, second = {
        "identical": (varied, varied.clone()),
        "zero": (0 * varied, 0 * varied),
        "zero first": (0 * varied, other),
        "zero second": (varied, 0 * other),
        "small first": (varied * 1e-4, other),
        "holes": (holed, other),
        "huge": (varied * 1e4, other * 1e4),
    }[kind]
    exact = everything(form, first.double(), second.double(), "reference")
    got = everything(form, first, second, "native")
    if kind == "identical":
        assert not got[0].any()
        assert not got[1].any()
    for values, expected in zip(got[:2], exact[:2], strict=True):
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-12)
    for gradient, expected in zip(got[2:], exact[2:], strict=True):
        assert gradient.dtype == dtype
        # At a zero vector the definition divides by 1e-10: more than float16 can hold, in either sign.
        finite = gradient.isfinite()
        assert finite.all() or (dtype == torch.float16 and kind != "identical")
        error = (gradient.double() - expected)[finite].norm()
        rounding = max(1e-5, torch.finfo(dtype).eps)
        assert error <= rounding * expected[finite].norm() + 0.1 * rounding


@pytest.mark.parametrize("form", FORMS)
def test_nan_goes_to_its_own_sample(form):
    first, second = features(3, 5, 4, 4), features(3, 5, 4, 4, seed=1)
    clean = everything(form, first, second, "native")
    first[1, 2, 0, 3] = torch.nan
    got = everything(form, first, second, "native")
    assert got[0][1].isnan()
    assert got[1][1, 0, 0, 3].isnan()
    for values, expected in zip(got, clean, strict=True):
        assert torch.equal(values[::2], expected[::2])
    assert FORMS[form](first, second, [0, 1, 3], kernels="native")[0].isfinite().all()


@pytest.mark.parametrize(("factor", "dtype"), [(1e20, torch.float32), (1e160, torch.float64)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_lengths_that_overflow_are_no_equality(factor, dtype, layout, kernels):
    first, second = features(2, 6, 4, 5, dtype=dtype), features(2, 6, 4, 5, seed=1, dtype=dtype)
    for huge in ((first,), (second,), (first, second)):
        pair = first.clone(memory_format=layout), second.clone(memory_format=layout)
        for copy, original in zip(pair, (first, second), strict=True):
            if any(original is one for one in huge):
                copy[1, :, 2, 3] = factor * (1 + copy[1, :, 2, 3])
        distance, values, *gradients = everything("unit", *pair, kernels)
        assert distance[0].isfinite()
        assert distance[1].isnan()
        assert torch.equal(values[1, 0].isnan().nonzero(), torch.tensor([[2, 3]], device=DEVICE))
        assert all(
            gradient[0].isfinite().all() and gradient[1, :, 2, 3].isnan().all() for gradient in gradients
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_storage_is_computed_in_float32(dtype):
    first = features(2, 9, 6, 6).to(dtype)
    second = first + (0.02 * features(2, 9, 6, 6, seed=1)).to(dtype)
    for function in (feature_distance, lpips_distance):
        exact = function(first.double(), second.double(), kernels="reference")
        got = function(first, second, kernels="native")
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=0)


LAYOUTS = {
    "channels last": lambda f: f.to(memory_format=torch.channels_last),
    "every second channel": lambda f: f.repeat_interleave(2, 1)[:, ::2],
    "every second column": lambda f: f.repeat_interleave(2, 3)[..., ::2],
    "columns first": lambda f: f.transpose(2, 3).contiguous().transpose(2, 3),
    "batch inside": lambda f: f.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "part of a larger map": lambda f: F.pad(f, (2, 3, 1, 1))[..., 1:-1, 2:-3],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ops.DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(form, layout, dtype):
    pair = features(2, 11, 7, 5).to(dtype), features(2, 11, 7, 5, seed=1).to(dtype)
    expected = everything(form, *pair, "native", [1, 4, 9])
    for relaid in ([LAYOUTS[layout](f) for f in pair], [LAYOUTS[layout](pair[0]), pair[1]]):
        got = everything(form, *relaid, "native", [1, 4, 9])
        if layout == "channels last":
            # Its vectors are of channels, so their sum has another order.
            for values, other in zip(got, expected, strict=True):
                step = 4 * torch.finfo(values.dtype).eps
                torch.testing.assert_close(values, other, rtol=step, atol=step)
        else:
            assert all(map(torch.equal, got, expected))


def test_gradients_have_the_memory_format_of_the_features():
    last = features(2, 8, 5, 6).to(memory_format=torch.channels_last)
    gradients = everything("squared", last, features(2, 8, 5, 6, seed=1), "native")[2:]
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    assert gradients[1].is_contiguous()


@pytest.mark.cpu_kernels("the number of threads")
@pytest.mark.parametrize("form", FORMS)
def test_thread_counts_give_the_same_bits(form):
    pair = features(3, 13, 70, 64).float(), features(3, 13, 70, 64, seed=1).float()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(everything(form, *pair, "native"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))
