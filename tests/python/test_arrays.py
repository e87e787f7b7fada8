"""The kernels on NumPy and DLPack arrays: values, gradients, memory layouts, refused arguments."""

import ast
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import pe_runtime
from pe_runtime import _kernels, arrays, functional

STUBS = Path(pe_runtime.__file__).with_name("_kernels.pyi")
TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.fixture
def random():
    return np.random.default_rng(0)


def features(random, *shape, dtype=np.float32):
    return random.standard_normal(shape).astype(dtype)


def exact(array):
    """The array as a float64 tensor that wants a gradient."""
    return torch.from_numpy(np.asarray(array).astype(np.float64)).requires_grad_()


def relative_error(actual, expected):
    expected = np.asarray(expected, np.float64)
    return np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected)


def tolerance(dtype):
    """Of a gradient that is stored in the type."""
    return {8: 1e-10, 4: 1e-5}.get(np.dtype(dtype).itemsize, 1e-2)


SETTINGS = [
    {},
    {"distance": "l2"},
    {"center": "none", "form": "one_minus"},
    {"center": "batch", "spatial_weight": 0.3},
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_contextual_loss_and_gradients_are_the_definitions(random, dtype, settings):
    source = features(random, 2, 9, 7, 5, dtype=dtype)
    target = features(random, 2, 9, 4, 6, dtype=dtype)
    channels, weights = [8, 0, 3], [0.5, 2.0, 1.0]
    loss, *gradients = arrays.contextual_loss_gradients(
        source, target, channels, weights, 0.4, target_needed=True, **settings
    )

    x, y = exact(source), exact(target)
    expected = functional.contextual_loss(
        x, y, channels, torch.tensor(weights), 0.4, reduction="none", kernels="reference", **settings
    )
    expected.sum().backward()
    assert loss.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert relative_error(loss, expected.detach()) < 1e-5
    for gradient, oracle in zip(gradients, (x, y), strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient, oracle.grad) < tolerance(dtype)
    for reduction in ("none", "mean", "sum"):
        value = arrays.contextual_loss(
            source, target, channels, weights, 0.4, reduction=reduction, **settings
        )
        np.testing.assert_array_equal(value, loss if reduction == "none" else getattr(loss, reduction)())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["feature_distance", "lpips_distance"])
def test_distances_and_gradients_are_the_definitions(random, dtype, name):
    first, second = features(random, 3, 6, 5, 4, dtype=dtype), features(random, 3, 6, 5, 4, dtype=dtype)
    channels, factors = [5, 1], [0.5, 2.0]
    distance, *gradients = getattr(arrays, f"{name}_gradients")(first, second, channels, factors)

    x, y = exact(first), exact(second)
    expected = getattr(functional, name)(x, y, channels, torch.tensor(factors), kernels="reference")
    expected.sum().backward()
    assert relative_error(distance, expected.detach()) < 1e-5
    for gradient, oracle in zip(gradients, (x, y), strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient, oracle.grad) < tolerance(dtype)
    np.testing.assert_array_equal(getattr(arrays, name)(first, second, channels, factors), distance)


def test_gradients_of_maps(random):
    first, second = features(random, 2, 3, 4, 5), features(random, 2, 3, 4, 5)
    upstream = features(random, 2, 1, 4, 5)
    _, distances = _kernels.channel_distance(first, second)
    gradient, none = _kernels.channel_distance_backward(None, upstream, first, second, second_needed=False)
    assert none is None
    x = exact(first)
    expected = (x - exact(second)).square().mean(dim=1, keepdim=True)
    np.testing.assert_allclose(distances, expected.detach(), rtol=1e-5)
    (expected * torch.from_numpy(upstream)).sum().backward()
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-6)

    loss, statistics = _kernels.contextual(first, second)
    along_map, _ = _kernels.contextual_backward(
        None, -np.exp(statistics[0]) / 20 / np.exp(-loss)[:, None], first, second, statistics
    )
    along_loss, _ = _kernels.contextual_backward([1.0, 1.0] * np.ones(2), None, first, second, statistics)
    np.testing.assert_allclose(along_map, along_loss, rtol=1e-4, atol=1e-6)
    _, statistics = _kernels.contextual(first, second, row_sums=True)
    assert statistics[5].shape == (2, 20, 4)
    with_sums, _ = _kernels.contextual_backward([1.0, 1.0] * np.ones(2), None, first, second, statistics)
    np.testing.assert_allclose(with_sums, along_loss, rtol=1e-4, atol=1e-6)


def layouts(array):
    """The same values in every order that they may lie in."""
    batch, channels, height, width = array.shape
    room = np.zeros((batch + 1, 2 * channels, height, width), array.dtype)
    room[1:, ::2] = array
    wide = np.zeros((batch, channels, height, width + 3), array.dtype)
    wide[..., 1:-2] = array
    unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    fixed = array.copy()
    fixed.flags.writeable = False
    return {
        "contiguous": array,
        "channels last": np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "batch last": np.ascontiguousarray(array.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2),
        "columns first": np.ascontiguousarray(array.swapaxes(2, 3)).swapaxes(2, 3),
        "slice of channels": room[1:, ::2],
        "slice of columns": wide[..., 1:-2],
        "reversed": np.ascontiguousarray(array[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
        "reversed channels": np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        "read-only": fixed,
        "unaligned": unaligned,
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((1, 1, 1, 1))))
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 1, 1, 1), (2, 1, 3, 1), (1, 4, 1, 3)])
def test_order_in_memory_changes_nothing(random, layout, shape):
    source, target = features(random, *shape), features(random, *shape)
    expected = arrays.contextual_loss_gradients(source, target, target_needed=True)
    moved_source, moved_target = layouts(source)[layout], layouts(target)[layout]
    np.testing.assert_array_equal(moved_source, source)
    actual = arrays.contextual_loss_gradients(moved_source, moved_target, target_needed=True)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    distances = arrays.feature_distance_gradients(source, target)
    for one, other in zip(arrays.feature_distance_gradients(moved_source, target), distances, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_lie_in_memory_as_the_features_do(random):
    source = features(random, 2, 5, 6, 7)
    moved = layouts(source)["channels last"]
    for array in (source, moved):
        _, gradient, _ = arrays.contextual_loss_gradients(array, source)
        assert gradient.strides == array.strides
        assert gradient.flags.writeable


def test_features_are_read_where_they_are(random):
    source = np.broadcast_to(features(random, 1, 3, 8, 8), (64, 3, 8, 8))
    np.testing.assert_allclose(
        arrays.feature_distance(source, source * 2), (source[0] ** 2).mean(), rtol=1e-5
    )


def test_any_array_with_dlpack(random):
    source, target = features(random, 2, 5, 4, 3), features(random, 2, 5, 6, 3)
    expected = arrays.contextual_loss(source, target, [1, 2], [0.5, 1.0])
    actual = arrays.contextual_loss(
        torch.from_numpy(source).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(target),
        torch.tensor([1, 2]),
        torch.tensor([0.5, 1.0]),
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_threads_and_instruction_sets(random):
    source, target = features(random, 2, 40, 20, 31), features(random, 2, 40, 23, 17)

    def both(threads):
        return (
            *arrays.contextual_loss_gradients(source, target, target_needed=True, threads=threads),
            *arrays.feature_distance_gradients(source, source[::-1], threads=threads),
            *arrays.lpips_distance_gradients(source, source[::-1], threads=threads),
        )

    expected = both(1)
    for threads in (2, 3, 7, None):
        for one, other in zip(both(threads), expected, strict=True):
            np.testing.assert_array_equal(one, other)

    best = _kernels.instruction_set()
    try:
        for name in ("baseline", "avx2", "avx512"):
            try:
                _kernels.set_instruction_set(name)
            except ValueError:
                continue
            assert _kernels.instruction_set() == name
            for one, other in zip(both(2), expected, strict=True):
                assert relative_error(one, other) < 1e-4
    finally:
        _kernels.set_instruction_set(best)
    with pytest.raises(ValueError, match="name: expected 'baseline'"):
        _kernels.set_instruction_set("sse9")


def test_other_python_threads_run_meanwhile(random):
    source = features(random, 1, 64, 96, 96)
    worker = threading.Thread(target=arrays.contextual_loss, args=(source, source), kwargs={"threads": 1})
    worker.start()
    seen = 0
    while worker.is_alive():
        seen += 1
        time.sleep(0.001)
    assert seen >= 5


def test_one_array_in_many_python_threads(random):
    source, target = features(random, 2, 8, 16, 16), features(random, 2, 8, 16, 16)
    expected = arrays.contextual_loss(source, target, reduction="none")
    losses = [None] * 8

    def score(index):
        losses[index] = arrays.contextual_loss(source, target, reduction="none", threads=2)

    workers = [threading.Thread(target=score, args=(index,)) for index in range(len(losses))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for loss in losses:
        np.testing.assert_array_equal(loss, expected)


def test_nan_stays_in_its_sample(random):
    source, target = features(random, 3, 4, 5, 5), features(random, 3, 4, 5, 5)
    source[1, 2, 3, 4] = np.nan
    loss, gradient, _ = arrays.contextual_loss_gradients(source, target)
    assert np.isnan(loss).tolist() == [False, True, False]
    assert np.isnan(gradient).any(axis=(1, 2, 3)).tolist() == [False, True, False]
    assert np.isnan(arrays.feature_distance(source, target)).tolist() == [False, True, False]


GOOD = np.ones((2, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([[[[1.0]]]], TypeError, "source: expected an array of features .* got list"),
        (None, TypeError, "source: expected an array of features .* got NoneType"),
        (GOOD.astype(int), TypeError, "source: expected float16, float32, .* got int64"),
        (GOOD.astype(">f4"), TypeError, "source: expected float16, .* byte order, got >f4"),
        (GOOD.astype(complex), TypeError, "source: .* got complex128"),
        (GOOD.astype(object), TypeError, "source: .* got object"),
        (GOOD.astype(np.longdouble), TypeError, "source: .* got (float128|longdouble)"),
        (GOOD[0], ValueError, r"source: expected a non-empty shape \(B, C, H, W\), got \(3, 4, 5\)"),
        (GOOD[:0], ValueError, r"source: expected a non-empty shape .* got \(0, 3, 4, 5\)"),
        (GOOD[:, :, :, :0], ValueError, r"source: expected a non-empty shape .* got \(2, 3, 4, 0\)"),
        (GOOD[:1], ValueError, "source and target: expected the same batch size and channels"),
        (GOOD[:, :2], ValueError, "source and target: expected the same batch size and channels"),
        (GOOD.astype(np.float64), TypeError, "source and target: expected one type, got float64 and float32"),
        (torch.ones(2, 3, 4, 5, requires_grad=True), TypeError, "source: .* Tensor gives none: .*gradient"),
        (torch.ones(2, 3, 4, 5, dtype=torch.bfloat16), TypeError, "source: .* Tensor gives none: "),
        (torch.ones(2, 3, 4, 5, device="meta"), TypeError, "source: .* Tensor gives none: "),
        (np.broadcast_to(GOOD[:1, :1, :1, :1], (2, 3, 2**16, 2**16)), ValueError, "source: expected fewer"),
    ],
)
def test_refuses_features(source, error, message):
    with pytest.raises(error, match=message):
        arrays.contextual_loss(source, GOOD)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"channels": []}, ValueError, "channels: expected numbers from 0 to 2, got none"),
        ({"channels": [3]}, ValueError, "channels: expected numbers from 0 to 2, got 3"),
        ({"channels": [-1]}, ValueError, "channels: expected numbers from 0 to 2, got -1"),
        ({"channels": [1, 0, 1]}, ValueError, "channels: expected each at most once, got 1 again"),
        ({"channels": [0.5]}, TypeError, "channels: expected integers, got float64"),
        ({"channels": [True]}, TypeError, "channels: expected integers, got bool"),
        ({"channels": [2**70]}, TypeError, "channels: expected integers, got object"),
        ({"channels": np.array([2**64 - 1], np.uint64)}, ValueError, "channels: expected numbers from 0"),
        ({"channels": [[0]]}, ValueError, r"channels: expected one dimension, got shape \(1, 1\)"),
        ({"channels": [[0], [0, 1]]}, ValueError, "channels: expected integers in one dimension"),
        ({"channels": 1}, ValueError, r"channels: expected one dimension, got shape \(\)"),
        ({"channels": "01"}, ValueError, "channels: expected one dimension"),
        ({"weights": [1.0]}, ValueError, "weights: expected one for each of 3 channels, got 1"),
        ({"weights": [1.0, -1.0, 1.0]}, ValueError, "weights: expected a finite number >= 0, got -1"),
        ({"weights": [1.0, np.nan, 1.0]}, ValueError, "weights: expected a finite number >= 0, got nan"),
        ({"weights": ["a", "b", "c"]}, TypeError, "weights: expected numbers, got <U1"),
        ({"bandwidth": 0}, ValueError, "bandwidth: expected a finite number above 0, got 0"),
        ({"bandwidth": np.inf}, ValueError, "bandwidth: expected a finite number above 0, got inf"),
        ({"spatial_weight": -1}, ValueError, "spatial_weight: expected a finite number >= 0, got -1"),
        ({"distance": "l1"}, ValueError, "distance: expected one of 'cosine', 'l2', got 'l1'"),
        ({"center": "all"}, ValueError, "center: expected one of 'sample', 'batch', 'none', got 'all'"),
        ({"form": "sqrt"}, ValueError, "form: expected one of 'log', 'one_minus', got 'sqrt'"),
        ({"reduction": "max"}, ValueError, "reduction: expected one of"),
        ({"threads": 0}, ValueError, "threads: expected 1 to 1024, got 0"),
        ({"threads": 2**80}, ValueError, "threads: expected 1 to 1024, got 1208925819614629174706176"),
        ({"threads": 1.5}, TypeError, "threads: expected an integer, got float"),
    ],
)
def test_refuses_settings(settings, error, message):
    with pytest.raises(error, match=message):
        arrays.contextual_loss(GOOD, GOOD, **settings)


def test_refuses_pairs_of_other_sizes():
    with pytest.raises(ValueError, match="first and second: expected the same shape, got"):
        arrays.feature_distance(GOOD, GOOD[..., :4])
    with pytest.raises(ValueError, match="weights: the form 'unit' has linear instead"):
        _kernels.channel_distance(GOOD, GOOD, weights=[1, 1, 1], form="unit")
    with pytest.raises(ValueError, match="linear: the form 'squared' has weights instead"):
        _kernels.channel_distance(GOOD, GOOD, linear=[1, 1, 1])


def test_backward_refuses_what_forward_did_not_give(random):
    source, target = features(random, 2, 3, 4, 5), features(random, 2, 3, 2, 5)
    loss, statistics = _kernels.contextual(source, target)
    one = np.ones_like(loss)

    def gradient(statistics, loss_gradient=one, map_gradient=None):
        return _kernels.contextual_backward(loss_gradient, map_gradient, source, target, statistics)[0]

    assert np.isfinite(gradient(statistics)).all()
    assert not gradient(statistics, None).any()
    with pytest.raises(ValueError, match="statistics: expected the six arrays"):
        gradient(statistics[:4])
    with pytest.raises(ValueError, match=r"statistics\[0\]: expected shape \(2, 10\), got \(2, 20\)"):
        gradient(statistics[2:4] + statistics[2:4] + statistics[4:])
    with pytest.raises(TypeError, match=r"statistics\[1\]: expected int32, got int64"):
        gradient((statistics[0], statistics[1].astype(np.int64), *statistics[2:]))
    with pytest.raises(ValueError, match=r"statistics\[5\]: expected shape \(2, 20, 4\), got \(2, 20, 3\)"):
        gradient((*statistics[:5], np.ones((2, 20, 3), np.float32)))
    with pytest.raises(ValueError, match=r"loss_gradient: expected shape \(2,\), got \(3,\)"):
        gradient(statistics, np.ones(3))
    with pytest.raises(TypeError, match="log_similarity_gradient: expected float32, got int64"):
        gradient(statistics, one, np.ones((2, 10), int))
    # Numbers of rows and columns that do not exist are no reason to read there.
    for which in (1, 3):
        wrong = [array.copy() for array in statistics]
        wrong[which][0, 0] = 2**31 - 1
        assert np.isnan(gradient(tuple(wrong))[0]).all()


def test_needs_no_torch():
    script = (
        "import sys, numpy\n"
        "from pe_runtime import arrays\n"
        "ones = numpy.ones((1, 2, 3, 4), 'f4')\n"
        "assert arrays.feature_distance(ones, 3 * ones).tolist() == [4.0]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_stubs_name_every_function_and_argument():
    stubs = {
        node.name: [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        for node in ast.parse(STUBS.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    signatures = {
        name: (getattr(_kernels, name).__doc__ or "").splitlines()[0]
        for name in dir(_kernels)
        if not name.startswith("_")
    }
    assert {name: re.findall(r"(\w+):", signature) for name, signature in signatures.items()} == stubs
