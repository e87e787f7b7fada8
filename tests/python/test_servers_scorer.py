"""What a server runs: batches of pairs in arrays, and all that a caller can get wrong about them."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import run_python, write_metric
from server_helpers import add_verdict

from pe_runtime.gate import Judge
from pe_runtime.scorer import Scorer

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer(write_metric(folder / "float.onnx"), threads=1, max_pixels=4096)


@pytest.fixture(scope="module")
def uint8_scorer(folder):
    metric = write_metric(folder / "uint8.onnx", uint8=True, scale=10)
    return Scorer(add_verdict(metric, folder / "verdict.onnx", threshold=1.5), threads=1)


def images(batch=2, height=9, width=11, seed=0):
    return np.random.default_rng(seed).random((batch, 3, height, width), dtype=np.float32)


def test_each_pair_of_a_batch_has_the_score_it_has_alone(scorer):
    first, second = images(3, seed=1), images(3, seed=2)
    values = scorer.score(first, second)
    assert list(values) == ["score", "map"]
    assert (values["score"].shape, values["map"].shape) == ((3,), (3, 1, 9, 11))
    assert len(set(values["score"])) == 3
    for index in range(3):
        alone = scorer.score(first[index : index + 1], second[index : index + 1])
        np.testing.assert_allclose(alone["score"][0], values["score"][index], rtol=1e-6)
    np.testing.assert_allclose(values["map"][:, 0], ((first - second) ** 2).mean(1), rtol=1e-5)


def test_scores_are_those_of_the_gate(uint8_scorer):
    pair = RANDOM.integers(0, 256, (2, 1, 12, 10, 3), dtype=np.uint8)
    values = uint8_scorer.score(*pair)
    judged = Judge(uint8_scorer.metric.path, threshold=1.5, maps=True).score(pair[0, 0], pair[1, 0])
    assert values["score"][0] == np.float32(judged.score)
    np.testing.assert_array_equal(values["map"][0, 0], judged.map)
    assert values["verdict"].dtype == bool
    assert values["verdict"].tolist() == [judged.passed]
    assert uint8_scorer.score(pair[0], pair[0])["verdict"].tolist() == [True]


def test_only_the_outputs_that_are_asked_for(scorer):
    assert list(scorer.score(images(), images(), ["map"])) == ["map"]
    assert list(scorer.score(images(), images(), ["map", "score", "map"])) == ["map", "score"]
    with pytest.raises(ValueError, match="outputs: expected among score, map, got 'verdict'"):
        scorer.score(images(), images(), ["verdict"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 11), r"expected shape \(batch, 3, height, width\), got \(3, 9, 11\)"),
        ((2, 9, 11, 3), r"expected shape \(batch, 3, height, width\), got \(2, 9, 11, 3\)"),
        ((0, 3, 9, 11), r"expected shape \(batch, 3, height, width\), got \(0, 3, 9, 11\)"),
        ((1, 3, 3, 11), "expected width and height of at least 4, got 11 x 3"),
        ((1, 3, 9, 0), "expected width and height of at least 4, got 0 x 9"),
        ((1, 3, 64, 65), "expected at most 4096 pixels, got 4160"),
        ((5, 3, 32, 32), "expected at most 4096 pixels, got 5120"),
    ],
)
def test_shapes_that_are_refused(scorer, shape, message):
    good, bad = images(), np.zeros(shape, np.float32)
    for name, pair in (("reference", (bad, good)), ("distorted", (good, bad))):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            scorer.score(*pair)


def test_the_largest_allowed_size_runs(scorer):
    assert scorer.score(images(4, 32, 32), images(4, 32, 32))["score"].tolist() == [0] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255])
def test_values_that_are_refused(scorer, value):
    bad = images()
    bad[1, 2, 8, 10] = value
    with pytest.raises(ValueError, match=r"distorted: expected values in \[0, 1\], got "):
        scorer.score(images(), bad)


def test_types_and_unlike_shapes_are_refused(scorer, uint8_scorer):
    with pytest.raises(TypeError, match="reference: expected float32, got float64"):
        scorer.score(images().astype(np.float64), images())
    with pytest.raises(TypeError, match="distorted: expected uint8, got int64"):
        uint8_scorer.score(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.int64))
    with pytest.raises(ValueError, match=r"expected one shape, got \(2, 3, 9, 11\) and \(1, 3, 9, 11\)"):
        scorer.score(images(), images(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": float("nan")}, "expected a finite score, got NaN or infinity"),
        ({"scale": -1.0}, "expected a score >= 0, got -"),
    ],
)
def test_a_metric_that_gives_no_score_is_at_fault(folder, changes, message):
    broken = Scorer(write_metric(folder / "broken.onnx", **changes))
    with pytest.raises(RuntimeError, match=f"metric: {message}"):
        broken.score(images(seed=1), images(seed=2))


def test_a_rounding_error_below_zero_is_zero(folder):
    rounded = Scorer(write_metric(folder / "rounded.onnx", offset=-1e-7))
    assert rounded.score(images(), images())["score"].tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=5) | st.tuples(*map(st.integers, (0, 3, 3, 3), (3, 3, 40, 40))),
    st.sampled_from(["float32", "float64", "uint8", "bool"]),
)
def test_any_array_is_scored_or_refused(scorer, shape, kind):
    array = np.zeros(shape, kind)
    fits = len(shape) == 4 and shape[0] > 0 and shape[1] == 3 and min(shape[2:]) >= 4
    if fits and kind == "float32" and shape[0] * shape[2] * shape[3] <= 4096:
        assert scorer.score(array, array)["score"].tolist() == [0] * shape[0]
        return
    with pytest.raises((ValueError, TypeError), match=r"^reference: expected"):
        scorer.score(array, array)


def test_one_scorer_serves_several_threads(scorer):
    pairs = [(images(1, seed=seed), images(1, seed=seed + 100)) for seed in range(40)]
    expected = [scorer.score(*pair)["score"][0] for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        assert [found["score"][0] for found in pool.map(lambda pair: scorer.score(*pair), pairs)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "threads: expected 0"),
        ({"max_pixels": 0}, "max_pixels: expected 1 or more, got 0"),
        ({"provider": "abacus"}, "provider: expected one of"),
    ],
)
def test_options_out_of_range(folder, options, message):
    with pytest.raises(ValueError, match=message):
        Scorer(write_metric(folder / "options.onnx"), **options)


def test_what_is_no_metric_is_refused(folder):
    with pytest.raises(ValueError, match="expected a metric written by pe-runtime export"):
        Scorer(write_metric(folder / "other.onnx", meta=False))


def test_a_server_needs_no_torch(folder):
    code = (
        "import sys; from pe_runtime.scorer import Scorer; Scorer(sys.argv[1]); print('torch' in sys.modules)"
    )
    done = run_python(code, write_metric(folder / "plain.onnx"))
    assert done.stdout.strip() == "False", done.stderr
