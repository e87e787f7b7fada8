"""Channel sets: H-x, L-x, F, random, explicit, and their weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pe_runtime.channels import ChannelSet, percentile_set, random_indices

finite_scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e6))


def test_percentiles_of_a_hand_computed_case():
    scores = [5.0, 1.0, 4.0, 2.0, 3.0]
    # The 60th percentile of 1..5 is 3.4, the 40th is 2.6.
    assert percentile_set(scores, 40, top=True) == (0, 2)
    assert percentile_set(scores, 40, top=False) == (1, 3)
    assert percentile_set(scores, 100, top=True) == percentile_set(scores, 100, top=False) == (0, 1, 2, 3, 4)


def test_ties_are_all_in():
    scores = [0.0] * 7 + [1.0, 2.0, 3.0]
    assert percentile_set(scores, 10, top=False) == percentile_set(scores, 50, top=False) == tuple(range(7))


@given(finite_scores, st.floats(0.1, 100))
def test_sets_are_as_equations_7_and_8_say(scores, percent):
    top = percentile_set(scores, percent, top=True)
    bottom = percentile_set(scores, percent, top=False)
    assert int(np.argmax(scores)) in top
    assert int(np.argmin(scores)) in bottom
    for chosen, worst in ((top, scores.min()), (bottom, -scores.max())):
        sign = 1 if chosen is top else -1
        inside = (sign * scores[list(chosen)]).min()
        outside = np.delete(sign * scores, list(chosen))
        assert inside >= worst
        assert outside.size == 0 or outside.max() < inside
        assert len(chosen) >= np.floor(percent / 100 * (len(scores) - 1))


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_percent_out_of_range(percent):
    with pytest.raises(ValueError, match="percent: expected"):
        percentile_set([1.0, 2.0], percent, top=True)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [[1.0]]])
def test_unusable_scores(scores):
    with pytest.raises(ValueError, match="scores: expected"):
        percentile_set(scores, 10, top=True)


@given(st.integers(1, 200), st.integers(0, 2**32), st.data())
def test_random_sets_have_the_size_and_follow_the_seed(channels, seed, data):
    count = data.draw(st.integers(1, channels))
    chosen = random_indices(channels, count, seed)
    assert len(set(chosen)) == count
    assert chosen == tuple(sorted(chosen)) == random_indices(channels, count, seed)
    assert all(0 <= index < channels for index in chosen)


def test_random_sets_differ_between_seeds():
    assert len({random_indices(64, 8, seed) for seed in range(20)}) == 20


@pytest.mark.parametrize("count", [0, 4])
def test_random_count_out_of_range(count):
    with pytest.raises(ValueError, match="count: expected 1 to 3"):
        random_indices(3, count, 0)


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [-1, 0]])
def test_bad_indices(indices):
    with pytest.raises(ValueError, match="indices: expected"):
        ChannelSet(indices)


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -0.1], [1.0, float("nan")], [0.0, 0.0], [1.0, float("inf")]]
)
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="weights: expected"):
        ChannelSet([3, 7], weights)


def test_numpy_and_generators_are_accepted():
    chosen = ChannelSet(np.array([1, 4]), (w for w in (0.5, 2)))
    assert chosen.indices == (1, 4)
    assert chosen.weights == (0.5, 2.0)
    assert len(chosen) == 2
    assert chosen.weighted(None).weights is None


def test_set_that_does_not_fit():
    with pytest.raises(ValueError, match="'fire3': expected indices below 4, got 4"):
        ChannelSet([0, 4]).check_fits(4, "fire3")
