import sys
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import FLOAT, chunk, metadata, png, save_model, write_metric

from pe_runtime.gate import Judge, Pair, Report, Result, find_pairs, judge_pairs, read_metric

IMAGE = ["B", 3, "H", "W"]


def values(*names, element=FLOAT, shape=IMAGE):
    return [helper.make_tensor_value_info(name, element, shape) for name in names]


def images(dtype=np.uint8, size=(16, 20), seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (2, *size, 3), dtype=dtype, endpoint=True)


def mean_square(first, second):
    top = np.float64(np.iinfo(first.dtype).max)
    return np.mean((first / top - second / top) ** 2)


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return write_metric(tmp_path_factory.mktemp("metric") / "metric.onnx")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("uint8", [False, True])
def test_score(tmp_path, dtype, uint8):
    judge = Judge(write_metric(tmp_path / "m.onnx", uint8=uint8), 0.1, threads=1)
    first, second = images(dtype)
    verdict = judge.score(first, second)
    if uint8 and dtype == np.uint16:
        assert verdict.warnings == ("16-bit pixels rounded to 8 bits, which the metric takes",)
        first, second = (np.rint(image / 257).astype(np.uint8) for image in (first, second))
    else:
        assert verdict.warnings == ()
    assert verdict.score == pytest.approx(mean_square(first, second), rel=1e-5)
    assert verdict.map is None
    assert judge.score(first, first).score == 0


def test_every_16_bit_level_is_rounded_to_the_nearest_of_8(tmp_path):
    judge = Judge(write_metric(tmp_path / "m.onnx", uint8=True), 0.0, threads=1)
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    rounded = np.rint(levels / 257.0).astype(np.uint8)
    assert judge.score(levels, rounded.astype(np.uint16) * 257).score == 0
    assert judge.score(levels, rounded).score == 0


def test_files_arrays_and_images_score_alike(tmp_path, metric):
    judge = Judge(metric, 1.0, threads=1)
    first, second = images()
    for name, pixels in (("a.png", first), ("b.png", second)):
        (tmp_path / name).write_bytes(png(pixels, depth=8, colour=2))
    assert judge.score(tmp_path / "a.png", str(tmp_path / "b.png")) == judge.score(first, second)


def test_map(tmp_path, metric):
    first, second = images()
    verdict = Judge(metric, 1.0, maps=True, threads=1).score(first, second)
    np.testing.assert_allclose(
        verdict.map, np.mean((first / 255.0 - second / 255.0) ** 2, axis=2), rtol=1e-4, atol=1e-7
    )
    without = write_metric(tmp_path / "m.onnx", has_map=False)
    assert Judge(without, 1.0).score(first, second).score == verdict.score
    with pytest.raises(ValueError, match="expected a metric with an output map"):
        Judge(without, 1.0, maps=True)


def test_a_score_equal_to_the_threshold_passes(tmp_path):
    judge = Judge(write_metric(tmp_path / "m.onnx", scale=0, offset=0.1), 0.1)
    first, second = images()
    verdict = judge.score(first, second)
    # float32 has no 0.1; the user who reads 0.1 and asks for 0.1 is right all the same.
    assert verdict.score == 0.1
    assert verdict.passed
    assert not Judge(judge.metric.path, 0.0999999).score(first, second).passed


def test_the_score_depends_on_nothing_but_the_pair(metric):
    judge, others = Judge(metric, 1.0), images(size=(7, 41), seed=3)
    first, second = images(size=(64, 80))
    before = judge.score(first, second).score
    judge.score(*others)
    assert judge.score(first, second).score == before
    assert Judge(metric, 0.5).score(first, second).score == before
    assert Judge(metric, 1.0, threads=1).score(first, second).score == pytest.approx(before, rel=1e-6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_sizes(metric, height, width, seed):
    judge = Judge(metric, 1.0, threads=1)
    first, second = images(size=(height, width), seed=seed)
    if min(height, width) < 4:
        with pytest.raises(ValueError, match=r"expected width and height of at least 4, got"):
            judge.score(first, second)
    else:
        score = judge.score(first, second).score
        assert score == pytest.approx(mean_square(first, second), rel=1e-4, abs=1e-9)


def test_threshold(tmp_path, metric):
    own = write_metric(tmp_path / "own.onnx", threshold=0.25)
    assert Judge(own).threshold == 0.25
    assert Judge(own, 0.5).threshold == 0.5
    assert Judge(own, 0).threshold == 0
    with pytest.raises(ValueError, match="threshold: expected a number"):
        Judge(metric)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="threshold: expected a finite number >= 0"):
            Judge(own, bad)


@pytest.mark.parametrize(
    ("offset", "message"), [(np.nan, "nan"), (np.inf, "inf"), (-0.5, r"-0\.5"), (-2e-6, "-2e-06")]
)
def test_scores_that_are_none(tmp_path, offset, message):
    judge = Judge(write_metric(tmp_path / "m.onnx", scale=0, offset=offset), 1.0)
    with pytest.raises(ValueError, match=f"metric: expected a finite score >= 0, got {message}"):
        judge.score(*images())


@pytest.mark.parametrize(("scale", "offset"), [(0, -1.2e-7), (-0.0, -0.0)])
def test_a_rounding_error_below_zero_is_zero(tmp_path, scale, offset):
    verdict = Judge(write_metric(tmp_path / "m.onnx", scale=scale, offset=offset), 0.0).score(*images())
    assert str(verdict.score) == "0.0"
    assert verdict.passed


def test_bad_images(metric):
    judge, (first, second) = Judge(metric, 1.0), images()
    with pytest.raises(ValueError, match=r"same width and height, got 20 x 16 and 20 x 8"):
        judge.score(first, second[:8])
    with pytest.raises(ValueError, match=r"distorted: expected shape \(H, W, 3\), got \(16, 20\)"):
        judge.score(first, second[..., 0])
    with pytest.raises(TypeError, match=r"reference: expected .* got float64 array"):
        judge.score(first / 255.0, second)
    with pytest.raises(TypeError, match=r"distorted: expected .* got NoneType"):
        judge.score(first, None)
    path = metric.with_name("setup.cfg")
    path.write_text("[x]")
    with pytest.raises(ValueError, match=r"reference: .*setup\.cfg: expected a PNG"):
        judge.score(path, second)


def test_bad_options(metric):
    with pytest.raises(ValueError, match=r"provider: expected one of .*'cpu'.*, got 'abacus'"):
        Judge(metric, 1.0, provider="abacus")
    with pytest.raises(ValueError, match="threads: expected 0"):
        Judge(metric, 1.0, threads=-1)
    assert Judge(metric, 1.0, provider="CPUExecutionProvider").threshold == 1.0


def test_bad_files(tmp_path, metric):
    with pytest.raises(FileNotFoundError):
        Judge(tmp_path / "missing.onnx", 1.0)
    with pytest.raises(IsADirectoryError):
        Judge(tmp_path, 1.0)
    data = metric.read_bytes()
    for bad in (b"", b"\0" * 100, b"not a model", data[:50], data[: len(data) // 2], data[:-3]):
        (tmp_path / "bad.onnx").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.onnx: "):
            Judge(tmp_path / "bad.onnx", 1.0)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (False, "without the metadata key 'pe_runtime'"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[1]", "expected a JSON object, got list"),
        (metadata(format=2), "expected format 1, got 2"),
        (metadata(format=True), "expected format 1, got True"),
        (metadata(input="int4"), "expected input 'float32' or 'uint8'"),
        (metadata(input=["float32"]), "expected input 'float32' or 'uint8'"),
        (metadata(input="uint8"), "reference: expected uint8 of shape"),
        (metadata(min_size=0), "min_size of at least 1"),
        (metadata(min_size="8"), "min_size of at least 1"),
        (metadata(threshold="0.1"), "threshold null or a finite number"),
        (metadata(threshold=-1), "threshold null or a finite number"),
        (metadata(threshold=True), "threshold null or a finite number"),
        (metadata(threshold=float("nan")), "expected JSON"),
        ('{"format": 1, "threshold": 1e999}', "expected JSON"),
        (metadata(threshold=10**400), "threshold null or a finite number"),
        ({}, "expected format 1, got None"),
    ],
)
def test_metadata(tmp_path, meta, message):
    path = write_metric(tmp_path / "m.onnx", meta=meta)
    with pytest.raises(ValueError, match=message):
        Judge(path, 1.0)


PAIR = values("reference", "distorted")
SCORE = values("score", shape=["B"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            values("image", "distorted"),
            SCORE,
            "expected inputs reference and distorted, got image, distorted",
        ),
        ([*PAIR, *values("third")], SCORE, "expected inputs reference and distorted, got"),
        (values("reference", "distorted", shape=["B", 1, "H", "W"]), SCORE, r"shape \(\?, 3, \?, \?\)"),
        (values("reference", "distorted", shape=["B", 3, "N"]), SCORE, r"shape \(\?, 3, \?, \?\)"),
        (values("reference", "distorted", element=FLOAT + 9), SCORE, "reference: expected float32"),
        (PAIR, values("similarity", shape=["B"]), "expected an output score, got similarity"),
        (PAIR, values("score", shape=["B", 1]), r"score: expected float32 of shape \(\?\)"),
        (PAIR, [*SCORE, *values("map")], r"map: expected float32 of shape \(\?, 1, \?, \?\)"),
    ],
)
def test_graphs_that_are_no_metrics(tmp_path, inputs, outputs, message):
    nodes = [helper.make_node("Identity", [inputs[0].name], [output.name]) for output in outputs]
    path = save_model(tmp_path / "m.onnx", nodes, inputs, outputs, meta=metadata())
    with pytest.raises(ValueError, match=message):
        Judge(path, 1.0)


def test_an_operator_that_the_runtime_lacks(tmp_path):
    node = helper.make_node("Oracle", ["reference", "distorted"], ["score"], domain="delphi")
    path = save_model(tmp_path / "m.onnx", [node], PAIR, SCORE, meta=metadata())
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("delphi", 1))
    onnx.save(model, path)
    with pytest.raises(ValueError, match="expected a graph that ONNX Runtime loads"):
        Judge(path, 1.0)


def test_a_graph_that_fails_on_the_pair(tmp_path):
    # The score comes with one element per row, whatever the graph claims.
    nodes = [
        helper.make_node("Sub", ["reference", "distorted"], ["difference"]),
        helper.make_node("ReduceMax", ["difference"], ["peak"], keepdims=0),
        helper.make_node("Expand", ["peak", "two"], ["score"]),
    ]
    two = onnx.numpy_helper.from_array(np.array([2]), "two")
    path = save_model(tmp_path / "m.onnx", nodes, PAIR, SCORE, [two], metadata())
    with pytest.raises(ValueError, match=r"metric: expected one float32 score, got float32 of shape \(2,\)"):
        Judge(path, 1.0).score(*images())


def test_weights_in_other_files_are_refused(tmp_path):
    write_metric(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ValueError, match="expected the weights inside the file"):
        read_metric(tmp_path / "m.onnx")


def test_fixed_size_graph_refuses_other_sizes(tmp_path):
    write_metric(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[2].dim_value = 16
        value.type.tensor_type.shape.dim[3].dim_value = 20
    onnx.save(model, tmp_path / "m.onnx")
    judge = Judge(tmp_path / "m.onnx", 1.0)
    assert judge.score(*images()).score > 0
    with pytest.raises(ValueError, match="metric: expected to run on this pair, but: "):
        judge.score(*images(size=(17, 20)))


@pytest.fixture
def folders(tmp_path):
    for seed in range(9):
        first, second = images(seed=seed)
        for side, pixels in (("a", first), ("b", second if seed % 2 else first)):
            path = tmp_path / side / f"{seed}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(pixels, depth=8, colour=2))
    return tmp_path


@pytest.mark.parametrize("jobs", [1, 3, 20])
def test_judge_pairs_in_order_whatever_the_jobs(folders, metric, jobs):
    judge = Judge(metric, 0.01, threads=1)
    pairs = find_pairs(folders / "a", folders / "b").pairs
    results = list(judge_pairs(judge, pairs, jobs=jobs))
    assert [result.name for result in results] == [f"{seed}.png" for seed in range(9)]
    assert [result.verdict for result in results] == ["pass", "fail"] * 4 + ["pass"]
    for result in results:
        assert result.score == judge.score(result.reference, result.candidate).score
        assert (result.width, result.height) == (20, 16)


def test_judge_pairs_looks_only_so_far_ahead(folders, metric, monkeypatch):
    taken = []

    def watched():
        for pair in find_pairs(folders / "a", folders / "b").pairs:
            taken.append(pair)
            yield pair

    results = judge_pairs(Judge(metric, 1.0), watched(), jobs=2)
    for done in range(1, 5):
        next(results)
        assert len(taken) <= done + 2
    results.close()
    with pytest.raises(ValueError, match="jobs: expected 0"):
        next(judge_pairs(Judge(metric, 1.0), [], jobs=-1))


def test_one_bad_pair_does_not_stop_the_others(folders, metric):
    (folders / "b" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folders / "b" / "5.png").write_bytes(png(images(size=(8, 8))[0], depth=8, colour=2))
    (folders / "a" / "7.png").unlink()
    (folders / "a" / "7.png").symlink_to(folders / "gone.png")
    pairs = [*find_pairs(folders / "a", folders / "b").pairs, Pair("x", folders / "a" / "1.png", None)]
    results = {result.name: result for result in judge_pairs(Judge(metric, 0.01), pairs)}
    assert [name for name, r in results.items() if r.verdict == "error"] == ["3.png", "5.png", "7.png", "x"]
    assert results["3.png"].error.startswith(f"candidate: {folders / 'b' / '3.png'}: expected a PNG")
    assert "same width and height, got 20 x 16 and 8 x 8" in results["5.png"].error
    assert results["7.png"].error.startswith("reference: ")
    assert results["x"].error.startswith("candidate: expected a file")
    assert all(result.score is None for result in results.values() if result.verdict == "error")


@pytest.mark.parametrize(
    ("verdicts", "error", "expected"),
    [
        ((), None, "error"),
        (("pass", "pass"), None, "pass"),
        (("pass", "fail"), None, "fail"),
        (("fail", "error", "pass"), None, "error"),
        (("pass", "error"), None, "error"),
        (("pass",), "the disk is full", "error"),
    ],
)
def test_verdict_on_all(verdicts, error, expected):
    results = [Result(str(n), None, None, verdict) for n, verdict in enumerate(verdicts)]
    report = Report(results=results, error=error)
    assert report.verdict == expected
    assert report.exit_code == {"pass": 0, "fail": 1, "error": 2}[expected]


def test_warnings_about_a_pair(tmp_path, metric):
    picture = PIL.Image.fromarray(images()[0])
    damaged = chunk(b"eXIf", b"II*\2")
    (tmp_path / "a.png").write_bytes(png(images()[0], depth=8, colour=2, chunks=damaged))
    picture.convert("RGBA").save(tmp_path / "b.png")
    picture.convert("CMYK").save(tmp_path / "c.jpg")
    judge = Judge(metric, 1.0)
    pairs = [Pair(str(n), tmp_path / a, tmp_path / b) for n, (a, b) in enumerate(
        [("a.png", "a.png"), ("a.png", "b.png"), ("b.png", "c.jpg")])]  # fmt: skip
    same, alpha, cmyk = (result.warnings for result in judge_pairs(judge, pairs))
    assert same == (
        "reference and candidate are the same file",
        "the EXIF data of the reference is damaged and is ignored",
        "the EXIF data of the candidate is damaged and is ignored",
    )
    assert alpha == (
        "only the candidate has transparency",
        "the EXIF data of the reference is damaged and is ignored",
    )
    assert cmyk == (
        "only the reference has transparency",
        "the candidate is CMYK, converted without a colour profile",
    )


def test_maps_are_pictures_of_one_scale(folders, metric):
    judge = Judge(metric, 0.01, maps=True)
    pairs = find_pairs(folders / "a", folders / "b").pairs
    results = list(judge_pairs(judge, pairs, maps=folders / "maps", map_max=0.5))
    from matplotlib import colormaps

    for result in results:
        assert result.map == folders / "maps" / f"{result.name}.png"
        with PIL.Image.open(result.map) as picture:
            assert picture.text["Description"] == "difference map, viridis, 0 to 0.5"
            values = judge.score(result.reference, result.candidate).map
            expected = colormaps["viridis"](np.clip(values / 0.5, 0, 1), bytes=True)[..., :3]
            assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 2
