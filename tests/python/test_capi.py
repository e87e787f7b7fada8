"""The C library on exported metrics, against the gate in Python."""

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import capi
import native_build

import pe_runtime as pe
from pe_runtime.gate import Judge

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def library():
    folder = native_build.build("pe_c", needs="PE_CAPI_REASON")
    return capi.Library(folder / "csrc" / "capi" / "libpe_runtime.so")


@pytest.fixture(scope="module", params=["float32", "uint8"])
def metric_path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("metric") / "gabor.onnx"
    metric = pe.FeatureDistance(pe.Backbone("gabor"))
    pe.export(metric, path, input=request.param, map=True, threshold=0.1, verify=False)
    return path


@pytest.fixture
def metric(library, metric_path):
    opened = capi.Metric(library, metric_path, native_build.onnxruntime_library())
    yield opened
    opened.close()


@pytest.fixture
def judge(metric_path):
    return Judge(metric_path, maps=True, threads=1)


def photographs(dtype, channels=3):
    top = np.iinfo(dtype).max
    return RNG.integers(0, top, (2, 48, 40, channels), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_scores_and_maps_are_those_of_the_gate(metric, judge, dtype):
    reference, distorted = photographs(dtype)
    verdict = judge.score(reference, distorted)
    score, difference = metric.score(reference, distorted)
    assert score == verdict.score > 0
    np.testing.assert_array_equal(difference, verdict.map)
    assert metric.score(reference, reference)[0] == 0


def test_layouts(metric, judge):
    reference, distorted = photographs(np.uint8)
    expected = metric.score(reference, distorted)[0]
    planar = np.ascontiguousarray(distorted.transpose(2, 0, 1)).transpose(1, 2, 0)
    upside_down = np.ascontiguousarray(distorted[::-1])[::-1]
    every_second = np.repeat(distorted, 2, axis=1)[:, ::2]
    opaque = np.dstack([distorted, np.full(distorted.shape[:2], 255, np.uint8)])
    for same in (planar, upside_down, every_second, opaque, distorted.astype(np.float32) / np.float32(255)):
        assert metric.score(reference, same)[0] == expected
    grey = distorted[..., :1]
    assert metric.score(reference, grey)[0] == judge.score(reference, grey.repeat(3, axis=2)).score
    clear = np.dstack([distorted, np.zeros(distorted.shape[:2], np.uint8)])
    plain = np.full_like(distorted, (1, 20, 200))
    assert metric.score(reference, clear, (1, 20, 200))[0] == judge.score(reference, plain).score


def test_metadata(library, metric, metric_path):
    text = library.c.pe_metric_metadata(metric.handle).decode()
    metadata = Judge(metric_path).metric.metadata
    assert json.loads(text) == metadata
    threshold = capi.c_double()
    assert library.c.pe_metric_threshold(metric.handle, capi.byref(threshold)) == 1
    assert threshold.value == 0.1
    assert library.c.pe_metric_min_size(metric.handle) == metadata["min_size"]


def test_many_threads_share_a_metric(metric):
    pairs = [photographs(np.uint8) for _ in range(6)]
    expected = [metric.score(*pair) for pair in pairs]

    def work(i):
        if i % 3 == 0:
            with pytest.raises(ValueError, match=rf"got {100 + i} x 48 and 40 x 48"):
                metric.score(np.zeros((48, 100 + i, 3), np.uint8), pairs[0][1])
        score, difference = metric.score(*pairs[i % 6])
        assert score == expected[i % 6][0]
        np.testing.assert_array_equal(difference, expected[i % 6][1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(48)))


def test_errors(library, metric, metric_path, tmp_path):
    small = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="reference and distorted: expected width and height of at least"):
        metric.score(small, small)
    with pytest.raises(ValueError, match=r"distorted: expected floating-point samples in \[0, 1\], got nan"):
        metric.score(np.zeros((48, 40, 3), np.uint8), np.full((48, 40, 3), np.nan, np.float32))
    onnxruntime = native_build.onnxruntime_library()
    for name, data, message in (
        ("empty", b"", "expected an ONNX file, got an empty file"),
        ("text", b"# no model", "expected a valid ONNX file"),
        ("library", Path(onnxruntime).read_bytes()[:5000], "expected a valid ONNX file"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            capi.Metric(library, path, onnxruntime)
    with pytest.raises(ValueError, match="onnxruntime: expected the library of ONNX Runtime: "):
        capi.Metric(library, metric_path, tmp_path / "missing.so")


def test_fused_metrics(library, tmp_path):
    try:
        operators = pe.ort_library_path()
    except RuntimeError as error:
        pytest.skip(str(error))
    loss = pe.ContextualLoss(pe.Backbone("gabor", taps=["scale3"]))
    path = tmp_path / "fused.onnx"
    pe.export(loss, path, fused=True, map=True, verify=False)
    onnxruntime = native_build.onnxruntime_library()
    pair = photographs(np.uint8)
    expected = Judge(path, 1.0, maps=True, threads=1).score(*pair)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PE_RUNTIME_ORT_LIBRARY", str(operators))
        fused = capi.Metric(library, path, onnxruntime, operators=1)
    score, difference = fused.score(*pair)
    assert score == expected.score
    np.testing.assert_array_equal(difference, expected.map)
    fused.close()
    standard = capi.Metric(library, path, onnxruntime, operators=2)
    score, difference = standard.score(*pair)
    assert score == pytest.approx(expected.score, rel=1e-4)
    np.testing.assert_allclose(difference, expected.map, rtol=1e-3)
    standard.close()


def test_damaged_metrics_are_refused_or_run(metric_path):
    folder = native_build.build("fuzz_capi", needs="PE_CAPI_REASON")
    memory = 8 << 30  # a damaged metric may ask for all there is
    done = subprocess.run(
        [folder / "tests" / "cpp" / "capi" / "fuzz_capi", "60", "21", metric_path],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
        env={"PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library())},
    )
    assert done.returncode == 0, done.stderr
    assert "180 damaged metrics" in done.stdout
