"""examples/python/score_pair.py: an exported metric with ONNX Runtime alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import run_python, write_metric
from server_helpers import ROOT, distorted, photographs, run_example, write_fused

from pe_runtime.gate import Judge
from pe_runtime.scorer import Scorer

# As run_example, on a machine that has neither torch nor this package.
ALONE = """
import runpy, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "onnx", "pe_runtime"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Without())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def files(tmp_path):
    image = photographs()[0]
    for name, pixels in (("reference", image), ("candidate", distorted(image, 64))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path / "reference.png", tmp_path / "candidate.png"


@pytest.mark.parametrize("uint8", [False, True])
def test_score_and_verdict_are_those_of_the_gate(tmp_path, files, uint8):
    metric = write_metric(tmp_path / "metric.onnx", uint8=uint8, threshold=0.001)
    score = Judge(metric).score(*files).score
    assert score > 0.001
    done = run_python(ALONE, ROOT / "examples" / "python" / "score_pair.py", metric, *files)
    assert (done.returncode, done.stdout) == (1, f"score {score:.6g}  threshold 0.001  fail\n"), done.stderr
    done = run_example("score_pair.py", metric, *files, "--threshold", "1")
    assert (done.returncode, done.stdout) == (0, f"score {score:.6g}  threshold 1  pass\n")


def test_without_a_threshold_there_is_no_verdict(tmp_path, files):
    metric = write_metric(tmp_path / "metric.onnx")
    done = run_example("score_pair.py", metric, files[0], files[0])
    assert (done.returncode, done.stdout) == (0, "score 0\n")


def test_fused_metric_with_and_without_the_library(tmp_path, files):
    metric = write_metric(tmp_path / "metric.onnx", fused=True)
    fused = write_fused(metric, tmp_path / "fused.onnx")
    plain = run_example("score_pair.py", fused, *files)
    assert (plain.returncode, "without --library" in plain.stderr) == (0, True)
    assert plain.stdout == run_example("score_pair.py", metric, *files).stdout
    done = run_example("score_pair.py", fused, *files, "--library", tmp_path / "missing.so")
    assert done.returncode != 0


def test_real_fused_metric(tmp_path, files, one_thread):
    import pe_runtime as pe
    from pe_runtime.ort import ort_library_path

    try:
        library = ort_library_path()
    except RuntimeError as error:
        pytest.skip(str(error))
    metric = pe.FeatureDistance(pe.Backbone("gabor", taps=["scale3"]))
    fused = pe.export(metric, tmp_path / "fused.onnx", fused=True, verify=False)
    scores = [
        float(run_example("score_pair.py", fused, *files, *options).stdout.split()[1])
        for options in ((), ("--library", library))
    ]
    pair = [np.float32(np.asarray(Image.open(file))[None].transpose(0, 3, 1, 2)) / 255 for file in files]
    scores += Scorer(fused, threads=1).score(*pair)["score"].tolist()
    assert scores[0] > 0
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)


def test_what_cannot_be_compared_is_refused(tmp_path, files):
    metric = write_metric(tmp_path / "metric.onnx")
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "small.png")
    done = run_example("score_pair.py", metric, files[0], tmp_path / "small.png")
    assert (done.returncode, "expected images of one size" in done.stderr) == (2, True)
    other = write_metric(tmp_path / "other.onnx", meta=False)
    done = run_example("score_pair.py", other, *files)
    assert (done.returncode, "expected a metric written by" in done.stderr) == (2, True)
