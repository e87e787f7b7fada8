"""Weights in float16 and convolutions in int8: file sizes, drift, what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import plain_session

import pe_runtime as pe
from pe_runtime.cli import cli
from pe_runtime.exporters import export
from pe_runtime.exporters.calibration import PHOTOGRAPHS, SIDE, calibration_pairs
from pe_runtime.exporters.graph import Interface

pytestmark = pytest.mark.usefixtures("one_thread")


def squeeze(weights="random"):
    return pe.Backbone("squeezenet1_1", ["relu1", "fire2"], weights)


def run(path, *pair):
    session = plain_session(str(path))
    images = {"reference": pair[0].numpy(), "distorted": pair[1].numpy()}
    return session.run(["score"], images)[0]


def photograph(seed, side=80):
    """Smooth, so that it survives JPEG: noise that is small at first."""
    drawn = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
def test_float16_weights(tmp_path, suffix):
    """Half the size; verified against eager with the rounded weights; scores within a thousandth."""
    metric = pe.FeatureDistance(squeeze())
    path = export(metric, tmp_path / f"half{suffix}", precision="float16")
    pair = Interface().example(2, 48, 56)
    expected, _ = metric.score_and_map(*pair)
    if suffix == ".onnx":
        model = onnx.load(path)
        weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
        assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
        got = torch.from_numpy(run(path, *pair))
        whole = export(metric, tmp_path / "whole.onnx", verify=False)
        assert path.stat().st_size < 0.75 * whole.stat().st_size
    else:
        module = torch.jit.load(path) if suffix == ".pt" else torch.export.load(path).module()
        assert any(tensor.dtype == torch.float16 for tensor in module.state_dict().values())
        got = module(*pair)[0]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=0)
    # Not the same: the weights are rounded.
    assert not torch.allclose(got, expected, rtol=1e-6)


def test_weights_beyond_float16_are_kept(tmp_path):
    metric = pe.FeatureDistance(squeeze())
    with torch.no_grad():
        metric.backbone.network.steps["conv1"].weight *= 1e6
    path = export(metric, tmp_path / "half.onnx", precision="float16")
    types = {t.name: t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 4}
    assert sorted(types.values()).count(onnx.TensorProto.FLOAT) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(photograph(number)).save(path / f"{number}.png")
    (path / "notes.txt").write_text("not a photograph")
    return path


@pytest.mark.parametrize("fused", [False, True])
def test_int8(tmp_path, folder, fused):
    metric = pe.FeatureDistance(squeeze())
    path = export(
        metric, tmp_path / "int8.onnx", precision="int8", calibration=folder, input="uint8", fused=fused
    )
    model = onnx.load(path)
    about = json.loads({p.key: p.value for p in model.metadata_props}["pe_runtime"])
    assert (about["precision"], about["fused"]) == ("int8", fused)
    assert [p.key for p in model.metadata_props] == ["pe_runtime"]
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    # The drift is what one finds oneself.
    pairs = calibration_pairs(folder, 32)
    drift = []
    for pair in pairs:
        decoded = [torch.tensor(pixels)[None] for pixels in pair]
        exact = metric(*(images.permute(0, 3, 1, 2) / 255 for images in decoded)).item()
        drift.append(abs(run(path, *decoded).item() - exact) / exact)
    assert about["calibration"]["pairs"] == len(pairs) == 3
    assert about["calibration"]["largest_drift"] == pytest.approx(max(drift), rel=1e-2)
    assert about["calibration"]["median_drift"] == pytest.approx(np.median(drift), rel=1e-2)
    assert 1e-4 < max(drift) < 0.2
    # Identical images are at 0 still.
    assert run(path, decoded[0], decoded[0]).item() == 0


def test_int8_on_real_photographs(shared, tmp_path):
    """Published weights: the drift that docs/export.md states."""
    weights = shared / "weights" / "squeezenet1_1.safetensors"
    metric = pe.FeatureDistance(pe.Backbone("squeezenet1_1", ["fire3"], weights))
    path = export(
        metric,
        tmp_path / "int8.onnx",
        precision="int8",
        calibration=shared / "images" / "kodak",
        verify=False,
    )
    about = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["pe_runtime"])["calibration"]
    assert about["pairs"] == PHOTOGRAPHS
    assert about["median_drift"] < 0.02
    assert about["largest_drift"] < 0.05


def test_command_line_prints_the_drift(tmp_path, folder):
    arguments = ["export", "squeezenet1_1", "--tap", "relu1", "--backbone-weights", "random"]
    arguments += ["--precision", "int8", "--calibration", str(folder), "-o", str(tmp_path / "m.onnx")]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "int8 against float32 on 3 pairs of photographs: scores differ by" in done.output


def test_calibration_pairs(folder, tmp_path):
    large = photograph(0, 2 * SIDE)
    reference, distorted = calibration_pairs([(large, 255 - large)], 32)[0]
    assert reference.shape == (SIDE, SIDE, 3)
    middle = slice(SIDE // 2, SIDE // 2 + SIDE)
    np.testing.assert_array_equal(reference, large[middle, middle])
    np.testing.assert_array_equal(distorted, 255 - reference)
    deep = large.astype(np.uint16) * 257
    np.testing.assert_array_equal(calibration_pairs([(deep, large)], 32)[0][0], reference)
    files = calibration_pairs([(folder / "0.png", str(folder / "1.png"))], 32)
    np.testing.assert_array_equal(files[0][1], photograph(1))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(PHOTOGRAPHS + 5):
        Image.fromarray(photograph(number, 40)).save(many / f"{number:02}.png")
    assert len(calibration_pairs(many, 32)) == PHOTOGRAPHS


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "expected at least one pair"),
        ([(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 41, 3), np.uint8))], "expected pairs of one size"),
        ([(np.zeros((9, 9, 3), np.uint8),) * 2], "of at least 32 pixels"),
        ([(np.zeros((40, 40), np.uint8),) * 2], r"expected uint8 images of shape \(H, W, 3\)"),
        ([(np.zeros((40, 40, 3), np.float32),) * 2], "expected uint8 images"),
    ],
)
def test_bad_calibration_is_refused(calibration, message):
    with pytest.raises(ValueError, match=f"calibration: .*{message}"):
        calibration_pairs(calibration, 32)


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="calibration: expected photographs in"):
        calibration_pairs(tmp_path, 32)
