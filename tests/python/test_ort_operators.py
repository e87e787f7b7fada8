"""The operators in ONNX Runtime against the definitions in float64: values, types, threads."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import TYPES, features, operator_model, run, selected, session_of

from pe_runtime.reference import (
    ContextualSettings,
    contextual_loss,
    feature_difference,
    lpips_difference,
)

CHANNELS, FACTORS = [5, 0, 3], [0.5, 2.0, 1.25]
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-12, torch.float16: 2e-6, torch.bfloat16: 2e-6}


def check_contextual(outputs, source, target, dtype, **options):
    loss, similarity = contextual_loss(source, target, ContextualSettings(**options))
    assert outputs[0].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert outputs[0].shape == loss.shape
    np.testing.assert_allclose(outputs[0], loss.numpy(), rtol=10 * ROUNDING[dtype])
    if len(outputs) > 1:
        assert outputs[1].dtype == outputs[0].dtype
        assert outputs[1].shape == similarity.shape
        np.testing.assert_allclose(np.exp(outputs[1]), similarity.numpy(), rtol=100 * ROUNDING[dtype])


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize(("channels", "weights"), [*itertools.product((None, CHANNELS), (None, FACTORS))])
def test_contextual_loss_of_every_type(element, channels, weights):
    count = 6 if channels or not weights else 3
    source, target = features(3, count, 7, 6), features(3, count, 5, 9, seed=1)
    session = session_of(
        operator_model("ContextualLoss", element=element, channels=channels, weights=weights)
    )
    dtype = TYPES[element]
    check_contextual(
        run(session, source, target),
        selected(source.to(dtype).double(), channels, weights),
        selected(target.to(dtype).double(), channels, weights),
        dtype,
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 12),
    st.tuples(*[st.integers(1, 8)] * 4),
    st.sampled_from([0.125, 0.5, 2.0]),
    st.sampled_from(["cosine", "l2"]),
    st.sampled_from(["sample", "batch", "none"]),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from(["log", "one_minus"]),
    st.sampled_from([0.0, 0.0625]),
    st.integers(0, 10**6),
)
def test_contextual_loss_with_every_setting(
    batch, channels, sizes, bandwidth, distance, center, spatial_weight, form, eps_log, seed
):
    source = features(batch, channels, sizes[0], sizes[1], seed=seed)
    target = features(batch, channels, sizes[2], sizes[3], seed=seed + 1)
    options = {
        "bandwidth": bandwidth,
        "distance": distance,
        "center": center,
        "spatial_weight": spatial_weight,
        "form": form,
        "eps": 2.0**-16,  # numbers that float32, which attributes are, has exactly
        "eps_log": eps_log,
    }
    session = session_of(operator_model("ContextualLoss", element=TensorProto.DOUBLE, **options))
    loss, similarity = contextual_loss(source, target, ContextualSettings(**options))
    outputs = run(session, source, target)
    np.testing.assert_allclose(outputs[0], loss.numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.exp(outputs[1]), similarity.numpy(), rtol=1e-6)


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("form", ["squared", "unit"])
@pytest.mark.parametrize(("channels", "factors"), [*itertools.product((None, CHANNELS), (None, FACTORS))])
def test_channel_distance_of_every_type(element, form, channels, factors):
    count = 6 if channels or not factors else 3
    first, second = features(3, count, 7, 6), features(3, count, 7, 6, seed=1)
    name = "weights" if form == "squared" else "linear"
    session = session_of(
        operator_model("ChannelDistance", element=element, channels=channels, form=form, **{name: factors})
    )
    dtype = TYPES[element]
    stored = [selected(f.to(dtype).double(), channels, None) for f in (first, second)]
    if form == "squared":
        expected = feature_difference(*(selected(f, None, factors) for f in stored))
    else:
        linear = None if factors is None else torch.tensor(factors, dtype=torch.float64)
        expected = lpips_difference(*stored, linear)
    distance, map_ = run(session, first, second)
    assert distance.dtype == map_.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert (distance.shape, map_.shape) == ((3,), (3, 1, 7, 6))
    np.testing.assert_allclose(distance, expected.mean(dim=(1, 2, 3)).numpy(), rtol=ROUNDING[dtype])
    np.testing.assert_allclose(map_, expected.numpy(), rtol=10 * ROUNDING[dtype], atol=1e-7)


@pytest.mark.parametrize("op", ["ContextualLoss", "ChannelDistance"])
@pytest.mark.parametrize("outputs", [("loss",), ("loss", "")])
def test_map_may_be_left_out(op, outputs):
    first, second = features(2, 4, 6, 5), features(2, 4, 6, 5, seed=1)
    expected = run(session_of(operator_model(op)), first, second)
    (loss,) = run(session_of(operator_model(op, outputs=outputs)), first, second)
    np.testing.assert_array_equal(loss, expected[0])


def test_one_session_takes_every_size():
    session = session_of(operator_model("ContextualLoss", element=TensorProto.DOUBLE))
    for batch, sizes in ((1, (4, 4, 4, 4)), (3, (9, 2, 1, 7)), (2, (1, 1, 5, 3)), (1, (1, 1, 1, 1))):
        source, target = features(batch, 3, *sizes[:2]), features(batch, 3, *sizes[2:], seed=1)
        check_contextual(run(session, source, target), source, target, torch.float64)


@pytest.mark.parametrize("op", ["ContextualLoss", "ChannelDistance"])
def test_neither_threads_nor_the_batch_change_a_bit(op):
    first, second = features(3, 13, 30, 32), features(3, 13, 30, 32, seed=1)
    model = operator_model(op)
    expected = run(session_of(model, threads=1), first, second)
    for threads in (2, 4):
        for got, wanted in zip(run(session_of(model, threads), first, second), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    for sample in range(3):
        alone = run(session_of(model, threads=2), first[sample : sample + 1], second[sample : sample + 1])
        for got, wanted in zip(alone, expected, strict=True):
            np.testing.assert_array_equal(got[0], wanted[sample])


@pytest.mark.parametrize("op", ["ContextualLoss", "ChannelDistance"])
def test_one_session_runs_in_eight_threads_at_once(op):
    session = session_of(operator_model(op, channels=CHANNELS, weights=FACTORS), threads=2)
    pairs = [(features(1, 6, 8 + n, 9, seed=n), features(1, 6, 8 + n, 9, seed=100 + n)) for n in range(8)]
    expected = [run(session, *pair) for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(lambda pair: run(session, *pair), pairs), expected, strict=True):
                for a, b in zip(got, wanted, strict=True):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["ContextualLoss", "ChannelDistance"])
def test_not_finite_features_touch_their_own_sample_only(op, bad):
    first, second = features(3, 4, 6, 5), features(3, 4, 6, 5, seed=1)
    session = session_of(operator_model(op), threads=2)
    expected = run(session, first, second)
    first[1, 2, 3, 4] = bad
    got = run(session, first, second)
    assert not np.isfinite(got[0][1])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])


def test_similar_images_keep_their_digits():
    source = features(1, 16, 12, 12)
    target = source + 0.1 * features(1, 16, 12, 12, seed=1)
    exact, _ = contextual_loss(source.float().double(), target.float().double(), ContextualSettings())
    loss = run(session_of(operator_model("ContextualLoss")), source, target)[0]
    assert 0 < exact.item() < 1e-6
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
