"""Exported ONNX graphs: parity with eager in ONNX Runtime, contracts, metadata, failures."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import pe_runtime as pe
from pe_runtime.demo.distortions import jpeg
from pe_runtime.exporters import export

ROOT = Path(__file__).resolve().parents[2]


def run(path, *pair):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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


METRICS = {
    "gabor distance": lambda: pe.FeatureDistance(),
    "distance": lambda: pe.FeatureDistance(squeeze(), tap_weights={"relu1": 0.25, "fire3": 2.0}),
    "lpips": lambda: pe.LPIPS(squeeze(), linear={"relu1": torch.rand(64), "fire3": torch.rand(5)}),
    "contextual": lambda: pe.ContextualLoss(squeeze(), bandwidth=0.3),
    "contextual bilateral symmetric": lambda: pe.ContextualLoss(
        squeeze(), spatial_weight=0.2, symmetric=True, form="one_minus"
    ),
    "contextual l1": lambda: pe.ContextualLoss(pe.Backbone("gabor", ["scale4"]), distance="l1"),
    "contextual l2": lambda: pe.ContextualLoss(pe.Backbone("gabor", ["scale4"]), distance="l2"),
}


@pytest.mark.parametrize("name", METRICS)
def test_parity_with_eager(tmp_path, name):
    metric = METRICS[name]()
    path = export(metric, tmp_path / "metric.onnx", map=True, verify=False)
    onnx.checker.check_model(str(path), full_check=True)
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
    loss = pe.ContextualLoss(pe.Backbone("gabor", ["scale3"]), parity=parity)
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


def test_uint8_graph_scores_like_the_float_graph(tmp_path):
    metric = pe.FeatureDistance(squeeze())
    plain = export(metric, tmp_path / "float.onnx", verify=False)
    decoded = export(metric, tmp_path / "uint8.onnx", input="uint8", verify=False)
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randint(0, 256, (2, 40, 52, 3), generator=generator, dtype=torch.uint8) for _ in range(2)]
    floats = [i.permute(0, 3, 1, 2).float() / 255 for i in pair]
    np.testing.assert_allclose(run(decoded, *pair)["score"], run(plain, *floats)["score"], rtol=1e-5)
    assert metadata(decoded)["input"] == "uint8"


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
    assert {domain.domain for domain in model.opset_import} <= {"", "ai.onnx"}
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    image = ["batch", 3, "height", "width"]
    assert shapes == {"reference": image, "distorted": image, "score": ["batch"]}


def test_contextual_settings_are_in_the_metadata(tmp_path):
    loss = pe.ContextualLoss(pe.Backbone("gabor", ["scale5"]), bandwidth=0.3, symmetric=True)
    settings = metadata(export(loss, tmp_path / "loss.onnx", verify=False))["settings"]
    assert (settings["bandwidth"], settings["symmetric"], settings["center"]) == (0.3, True, "sample")


def test_masked_channels_are_not_in_the_file(tmp_path):
    shapes = {}
    for name, taps in (("full", ["fire3"]), ("few", {"fire3": pe.ChannelSet([5])})):
        metric = pe.FeatureDistance(pe.Backbone("squeezenet1_1", taps, "random"))
        model = onnx.load(export(metric, tmp_path / f"{name}.onnx", verify=False))
        shapes[name] = [tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 4]
    # fire3 expands 16 channels to 64 + 64; channel 5 comes from the first half alone.
    assert shapes["full"].count((64, 16, 1, 1)) == shapes["full"].count((64, 16, 3, 3)) == 2
    assert shapes["few"].count((64, 16, 1, 1)) == shapes["few"].count((64, 16, 3, 3)) == 1
    assert shapes["few"].count((1, 16, 1, 1)) == 1


def test_metric_is_not_changed(tmp_path):
    metric = pe.FeatureDistance(squeeze()).double()
    before = metric(images(1, 40, 40).double(), images(1, 40, 40, seed=1).double())
    export(metric, tmp_path / "metric.onnx")
    assert all(p.dtype == torch.float64 for p in metric.parameters())
    assert torch.equal(before, metric(images(1, 40, 40).double(), images(1, 40, 40, seed=1).double()))


def test_verification_refuses_a_graph_that_is_wrong(tmp_path, monkeypatch):
    from pe_runtime.exporters import onnx as writer

    whole = writer._to_model

    def biased(graph, opset):
        model = whole(graph, opset)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 4 and values.size > 1000:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))
        return model

    monkeypatch.setattr(writer, "_to_model", biased)
    with pytest.raises(RuntimeError, match="score: the exported graph differs from eager"):
        export(pe.FeatureDistance(squeeze()), tmp_path / "metric.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 17}, ValueError, "opset: expected one of 18, 19, 20, 21"),
        ({"input": "float16"}, ValueError, "input: expected one of 'float32', 'uint8'"),
        ({"threshold": -1.0}, ValueError, "threshold: expected a finite number >= 0"),
        ({"threshold": float("nan")}, ValueError, "threshold: expected"),
    ],
)
def test_bad_options_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export(pe.FeatureDistance(), tmp_path / "metric.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_other_suffixes_and_other_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.onnx"):
        export(pe.FeatureDistance(), tmp_path / "metric.tflite")
    with pytest.raises(TypeError, match="metric: expected a FeatureDistance, LPIPS or ContextualLoss"):
        export(torch.nn.Identity(), tmp_path / "metric.onnx")


def test_writer_runs_as_a_script():
    """Its folder holds an onnx.py, which must not hide the onnx package."""
    done = subprocess.run(
        [sys.executable, ROOT / "export" / "onnx.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "pe-runtime export profile.safetensors --top 10" in done.stdout
