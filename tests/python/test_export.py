"""Exported ONNX graphs: parity with eager in ONNX Runtime, contracts, metadata, failures."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import plain_session

import pe_runtime as pe
from pe_runtime.demo.distortions import jpeg
from pe_runtime.exporters import export
from pe_runtime.exporters.graph import largest_passing
from pe_runtime.gate import Judge

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]


def run(path, *pair):
    session = plain_session(str(path))
    names = ("reference", "distorted")
    outputs = session.run(None, {name: i.numpy() for name, i in zip(names, pair, strict=True)})
    return dict(zip((o.name for o in session.get_outputs()), outputs, strict=True))


def images(batch, height, width, seed=0):
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


def metadata(path):
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["pe_runtime"])


CHOSEN = pe.ChannelSet([1, 8, 20, 63, 100], [0.5, 1.0, 0.25, 2.0, 1.5], name="H-4")


def squeeze():
    return pe.Backbone("squeezenet1_1", {"relu1": None, "fire3": CHOSEN}, "random")


def small():
    return pe.Backbone("gabor", {"scale2": pe.ChannelSet([0, 5, 30])})


METRICS = {
    "gabor distance": lambda: pe.FeatureDistance(),
    "distance": lambda: pe.FeatureDistance(squeeze(), tap_weights={"relu1": 0.25, "fire3": 2.0}),
    "lpips": lambda: pe.LPIPS(squeeze(), linear={"relu1": torch.rand(64), "fire3": torch.rand(5)}),
    "contextual": lambda: pe.ContextualLoss(squeeze(), bandwidth=0.3),
    "contextual bilateral symmetric": lambda: pe.ContextualLoss(
        squeeze(), spatial_weight=0.2, symmetric=True, form="one_minus"
    ),
    "contextual l1": lambda: pe.ContextualLoss(small(), distance="l1"),
}


# Every metric, every kind of node, and each way; test_export_contextual.py has the settings.
PARITY = [
    ("gabor distance", False),
    ("distance", True),
    ("lpips", False),
    ("contextual", False),
    ("contextual bilateral symmetric", True),
    ("contextual l1", False),
]


@pytest.mark.parametrize(("name", "fused"), PARITY)
def test_parity_with_eager(tmp_path, name, fused):
    metric = METRICS[name]()
    path = export(metric, tmp_path / "metric.onnx", map=True, verify=False, fused=fused)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == ({"", "pe_runtime"} if fused else {""})
    exact = copy.deepcopy(metric).double()
    for batch, height, width in ((1, 64, 64), (3, 45, 61)):
        reference, distorted = images(batch, height, width), images(batch, height, width, seed=1)
        score, difference = metric.score_and_map(reference, distorted)
        true_score, true_map = exact.score_and_map(reference.double(), distorted.double())
        got = run(path, reference, distorted)
        assert score.unique().numel() == batch
        np.testing.assert_allclose(got["score"], score.numpy(), rtol=1e-4)
        np.testing.assert_allclose(got["score"], true_score.numpy(), rtol=1e-4)
        # Single positions of the contextual loss are ill-conditioned: no further from the truth than eager.
        eager_error = (difference - true_map).abs().max().item()
        assert np.abs(got["map"] - true_map.numpy()).max() <= 4 * eager_error + 1e-5 * true_map.max().item()
        assert got["score"].dtype == np.float32


def test_silent_positions_do_not_divide_by_zero(tmp_path):
    """Black images through a biased-off channel have features of length 0, which LPIPS normalises."""
    silent = pe.Backbone("squeezenet1_1", {"relu1": pe.ChannelSet([0])}, "random")
    metric = pe.LPIPS(silent, linear=None)
    reference, distorted = images(1, 64, 64), images(1, 64, 64, seed=1)
    dead = [(silent(i)["relu1"] == 0).any() for i in (reference, distorted)]
    assert any(dead)
    got = run(export(metric, tmp_path / "metric.onnx", verify=False), reference, distorted)
    np.testing.assert_allclose(got["score"], metric(reference, distorted).numpy(), rtol=1e-4)


@pytest.mark.parametrize("parity", [None, "pytorch-port"])
def test_eps_of_the_contextual_loss_survives_the_export(tmp_path, parity):
    """Near-identical images: the smallest distances are of the order of eps, which then decides the score."""
    loss = pe.ContextualLoss(pe.Backbone("gabor", {"scale2": pe.ChannelSet(range(9))}), parity=parity)
    path = export(loss, tmp_path / "loss.onnx", verify=False)
    reference = images(1, 64, 64)
    for distorted in (reference, (reference + 0.05 * images(1, 64, 64, seed=1)).clamp(max=1)):
        expected = loss.double()(distorted.double(), reference.double()).item()
        assert run(path, reference, distorted)["score"][0] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", ["distance", "contextual"])
def test_published_weights_on_photographs(shared, tmp_path, kind):
    """The whole way with real features: PE, H-10 weighted by PE, truncated network, ONNX, real pairs."""
    weights = shared / "weights" / "squeezenet1_1.safetensors"
    full = pe.Backbone("squeezenet1_1", ["fire3"], weights)
    stimulus = pe.Stimulus(size=96, frequencies=12, orientations=8)
    best = pe.score_channels(full, stimulus=stimulus, progress=False)["fire3"].top(10, weights="pe")
    small = pe.Backbone("squeezenet1_1", {"fire3": best}, weights)
    metric = pe.FeatureDistance(small) if kind == "distance" else pe.ContextualLoss(small, bandwidth=5.0)
    path = export(metric, tmp_path / "metric.onnx", input="uint8")
    exact = copy.deepcopy(metric).double()
    scores = []
    photo = Image.open(shared / "images" / "kodak" / "kodim05.png").convert("RGB").crop((100, 100, 292, 260))
    for quality in (90, 40, 10):
        decoded = [np.array(image)[None] for image in (photo, jpeg(photo, quality))]
        scores.append(run(path, *map(torch.from_numpy, decoded))["score"].item())
        doubles = [torch.from_numpy(i).permute(0, 3, 1, 2).double() / 255 for i in decoded]
        assert scores[-1] == pytest.approx(exact.score_and_map(*doubles)[0].item(), rel=1e-4)
    assert 0 < scores[0] < scores[1] < scores[2]


def test_uint8_verdict_and_map(tmp_path):
    metric = pe.FeatureDistance(squeeze())
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randint(0, 256, (2, 40, 52, 3), generator=generator, dtype=torch.uint8) for _ in range(2)]
    pair[1][0] = pair[0][0]
    floats = [i.permute(0, 3, 1, 2).float() / 255 for i in pair]
    score, difference = metric.score_and_map(*floats)
    path = export(
        metric, tmp_path / "m.onnx", input="uint8", map=True, verdict=True, threshold=score[1].item() / 2
    )
    got = run(path, *pair)
    assert list(got) == ["score", "map", "verdict"]
    np.testing.assert_allclose(got["score"], score.numpy(), rtol=1e-5)
    np.testing.assert_allclose(got["map"], difference.numpy(), rtol=1e-3, atol=1e-6)
    assert got["verdict"].tolist() == [True, False]
    assert (metadata(path)["input"], metadata(path)["verdict"]) == ("uint8", True)
    # The gate reads it, and comes to the same verdict.
    judge = Judge(path)
    assert [judge.score(*(i[n].numpy() for i in pair)).passed for n in range(2)] == [True, False]


@given(st.floats(0, 1e38), st.floats(-1e-6, 1e-6))
def test_verdicts_are_those_of_the_gate(threshold, apart):
    """The gate compares the shortest decimal of a score with the threshold, a graph compares float32."""
    passing = np.float32(largest_passing(threshold))
    near = np.float32(threshold * (1 + apart))
    for score in (near, np.nextafter(near, np.float32(np.inf)), passing, np.float32(threshold)):
        assert bool(score <= passing) == (float(str(score)) <= threshold)
    assert largest_passing(1e300) == np.finfo(np.float32).max


def test_file_describes_itself_and_nothing_else(tmp_path):
    path = export(pe.FeatureDistance(squeeze()), tmp_path / "metric.onnx", threshold=0.25, verify=False)
    about = metadata(path)
    assert about["metric"] == "feature_distance"
    assert about["threshold"] == 0.25
    assert about["map"] is False
    assert about["backbone"] == squeeze().describe()
    assert about["settings"]["tap_weights"] == {"relu1": 0.5, "fire3": 0.5}
    assert {"torch", "onnx", "torchvision"} <= about["versions"].keys()
    # Neither stack traces nor paths of the machine that wrote it.
    content = path.read_bytes()
    for trace in (str(ROOT).encode(), b"site-packages", b"stack_trace"):
        assert trace not in content
    model = onnx.load(path)
    assert [domain.domain for domain in model.opset_import] == [""]
    assert (about["fused"], about["verdict"], about["precision"]) == (False, False, "float32")
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    image = ["batch", 3, "height", "width"]
    assert shapes == {"reference": image, "distorted": image, "score": ["batch"]}


def test_contextual_settings_are_in_the_metadata(tmp_path):
    loss = pe.ContextualLoss(small(), bandwidth=0.3, symmetric=True)
    settings = metadata(export(loss, tmp_path / "loss.onnx", verify=False))["settings"]
    assert (settings["bandwidth"], settings["symmetric"], settings["center"]) == (0.3, True, "sample")


def test_graph_has_nothing_that_is_not_needed(tmp_path):
    """Selected channels only; normalisation in the weights; shared constants; no padding for a pool."""
    nodes, shapes = {}, {}
    for name, taps in (("full", ["fire3"]), ("few", {"fire3": pe.ChannelSet([5])})):
        metric = pe.FeatureDistance(pe.Backbone("squeezenet1_1", taps, "random"))
        model = onnx.load(export(metric, tmp_path / f"{name}.onnx", verify=False))
        shapes[name] = [tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 4]
        nodes[name] = [node.op_type for node in model.graph.node]
        read = {value for node in model.graph.node for value in node.input}
        written = {value for node in model.graph.node for value in node.output} | {
            tensor.name for tensor in model.graph.initializer
        }
        assert written - read == {"score"}
    # fire3 expands 16 channels to 64 + 64; channel 5 comes from the first half alone.
    assert shapes["full"].count((64, 16, 1, 1)) == shapes["full"].count((64, 16, 3, 3)) == 2
    assert shapes["few"].count((64, 16, 1, 1)) == shapes["few"].count((64, 16, 3, 3)) == 1
    assert shapes["few"].count((1, 16, 1, 1)) == 1
    one = ["Conv", "Relu", "MaxPool", *["Conv", "Relu"] * 3, "Concat", *["Conv", "Relu"] * 3, "Concat"]
    assert nodes["full"] == [*one, *one, "Sub", "Mul", "ReduceMean", "ReduceMean"]


def test_fused_file_has_one_node_per_tap_and_a_function(tmp_path):
    metric = pe.ContextualLoss(squeeze(), symmetric=True)
    model = onnx.load(export(metric, tmp_path / "m.onnx", fused=True, opset=20))
    fused = [node for node in model.graph.node if node.domain == "pe_runtime"]
    assert [(node.op_type, len(node.input)) for node in fused] == [("ContextualLoss", 2)] * 4
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in fused[0].attribute}
    assert attributes == {
        "bandwidth": 0.5, "distance": b"cosine", "center": b"sample", "spatial_weight": 0.0, "form": b"log",
        "eps": np.float32(1e-5), "eps_log": 0.0,
    }  # fmt: skip
    # Nothing reads the similarity.
    assert [node.output[1] for node in fused] == [""] * 4
    assert [function.name for function in model.functions] == ["ContextualLoss"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "pe_runtime": 1}
    assert model.ir_version <= 10
    assert metadata(tmp_path / "m.onnx")["fused"] is True


def test_a_comparison_of_ones_own_is_recorded_as_it_computes(tmp_path):
    class Largest(pe.FeatureDistance):
        def tap_map(self, tap, reference, distorted):
            difference = (reference - distorted).abs().amax(dim=1, keepdim=True)
            return difference.amax(dim=(1, 2, 3)), difference

    metric = Largest(small())
    path = export(metric, tmp_path / "m.onnx", fused=True)
    pair = images(2, 20, 24), images(2, 20, 24, seed=1)
    np.testing.assert_allclose(run(path, *pair)["score"], metric(*pair).numpy(), rtol=1e-5)
    assert metadata(path)["fused"] is False


def test_metric_is_not_changed(tmp_path):
    metric = pe.FeatureDistance(squeeze()).double()
    before = metric(images(1, 40, 40).double(), images(1, 40, 40, seed=1).double())
    export(metric, tmp_path / "metric.onnx")
    assert all(p.dtype == torch.float64 for p in metric.parameters())
    assert torch.equal(before, metric(images(1, 40, 40).double(), images(1, 40, 40, seed=1).double()))


def test_fused_is_refused_where_there_is_no_kernel(tmp_path):
    with pytest.raises(RuntimeError, match=r"fused: .* distance 'l1' has no kernel"):
        export(METRICS["contextual l1"](), tmp_path / "metric.onnx", fused=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["onnx", "pt"])
def test_verification_refuses_a_file_that_is_wrong(tmp_path, monkeypatch, suffix):
    from pe_runtime.exporters import fold

    def biased(values):
        return torch.nn.Parameter(values.float() * 1.01, requires_grad=False)

    monkeypatch.setattr(fold, "_constant", biased)
    with pytest.raises(RuntimeError, match="score: the exported file differs from eager"):
        export(pe.FeatureDistance(squeeze()), tmp_path / f"metric.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 17}, ValueError, "opset: expected one of 18, 19, 20, 21"),
        ({"input": "float16"}, ValueError, "input: expected one of 'float32', 'uint8'"),
        ({"threshold": -1.0}, ValueError, "threshold: expected a finite number >= 0"),
        ({"threshold": float("nan")}, ValueError, "threshold: expected"),
        ({"verdict": True}, ValueError, "threshold: expected a number for the verdict"),
        ({"block_rows": 0}, ValueError, "block_rows: expected at least 1"),
        ({"precision": "int4"}, ValueError, "precision: expected one of 'float32', 'float16', 'int8'"),
        ({"precision": "int8"}, ValueError, "calibration: expected photographs"),
        ({"calibration": []}, ValueError, "calibration: .* only with it"),
        ({"compiled": True}, ValueError, r"compiled: not an option of \.onnx files"),
    ],
)
def test_bad_options_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export(pe.FeatureDistance(), tmp_path / "metric.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_other_suffixes_and_other_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.onnx, \.pt or \.pt2"):
        export(pe.FeatureDistance(), tmp_path / "metric.tflite")
    for suffix in ("onnx", "pt", "pt2"):
        with pytest.raises(TypeError, match="metric: expected a FeatureDistance, LPIPS or ContextualLoss"):
            export(torch.nn.Identity(), tmp_path / f"metric.{suffix}")


@pytest.mark.parametrize("writer", ["onnx", "torchscript", "program"])
def test_writers_run_as_scripts(writer):
    """Their folder holds an onnx.py, which must not hide the onnx package."""
    done = subprocess.run(
        [sys.executable, ROOT / "export" / f"{writer}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pe-runtime export profile.safetensors --top 10" in done.stdout
