"""Backbone: taps, features, cost, and that it exports."""

import copy
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import plain_session

from pe_runtime import Backbone, ChannelSet
from pe_runtime.backbones import BACKBONE_NAMES, Cost, list_taps
from pe_runtime.backbones.architectures import CHAIN_NAMES, build_chain
from pe_runtime.backbones.weights import random_state
from pe_runtime.cli.taps import command


@pytest.mark.parametrize("name", CHAIN_NAMES)
def test_every_tap_is_what_torchvision_computes(name):
    chain = build_chain(name)
    expected = {}
    images = torch.rand(2, 3, 75, 66)
    model, normalised = _torchvision_model(chain, images)
    for step in chain.steps:
        model.get_submodule(step.key).register_forward_hook(
            # Cloned before the next layer, which works in place, overwrites it.
            lambda module, args, output, tap=step.name: expected.update({tap: output.clone()})
        )
    with torch.no_grad():
        model(normalised)

    features = Backbone(name, list(expected), "random")(images)
    assert list(features) == [step.name for step in chain.steps]
    for tap, values in features.items():
        assert values.shape == expected[tap].shape
        assert (values - expected[tap]).abs().max() <= 1e-5 * expected[tap].abs().max(), tap


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_listed_taps_are_what_forward_gives(name):
    taps = list_taps(name)
    weights = "default" if name == "gabor" else "random"
    shallow = [tap for tap in taps if tap.stride <= 8]
    features = Backbone(name, [tap.name for tap in shallow], weights)(torch.rand(1, 3, 224, 224))
    for tap in shallow:
        assert features[tap.name].shape == (1, tap.channels, tap.size, tap.size)
        assert round(224 / tap.size) in (tap.stride, tap.stride + 1)


def test_fields_tap_names():
    names = {name: {tap.name: tap for tap in list_taps(name)} for name in BACKBONE_NAMES}
    assert list(names["vgg16"])[:6] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1"]
    assert (names["vgg16"]["relu5_3"].channels, names["vgg19"]["relu5_4"].stride) == (512, 16)
    assert list(names["alexnet"])[-5:] == ["conv4", "relu4", "conv5", "relu5", "pool5"]
    assert [tap for tap in names["squeezenet1_0"] if "pool" in tap] == ["pool1", "pool4", "pool8"]
    assert [tap for tap in names["squeezenet1_1"] if "pool" in tap] == ["pool1", "pool3", "pool5"]
    assert names["googlenet"]["inception4a"].channels == 512
    for size in ("x0_5", "x1_0", "x1_5", "x2_0"):
        aliases = {tap.aliases: tap.name for tap in list_taps(f"shufflenet_v2_{size}") if tap.aliases}
        assert aliases == {("stage2",): "stage2_4", ("stage3",): "stage3_8", ("stage4",): "stage4_4"}


def test_alias_is_the_tap_under_the_name_asked_for():
    images = torch.rand(1, 3, 32, 32)
    alias = Backbone("shufflenet_v2_x0_5", ["stage2"], "random")
    unit = Backbone("shufflenet_v2_x0_5", ["stage2_4"], "random")
    assert torch.equal(alias(images)["stage2"], unit(images)["stage2_4"])
    assert alias.weights_hash("stage2") == unit.weights_hash("stage2_4")
    with pytest.raises(ValueError, match="taps: expected distinct taps, got 'stage2' and 'stage2_4'"):
        Backbone("shufflenet_v2_x0_5", ["stage2", "stage2_4"], "random")


def test_wrong_names_list_the_right_ones():
    with pytest.raises(ValueError, match=r"name: expected one of 'gabor', 'vgg16', .*got 'vgg17'"):
        Backbone("vgg17", ["relu1_1"])
    with pytest.raises(ValueError, match=r"taps: expected some of conv1, .*stage2, .*got 'relu9'"):
        Backbone("shufflenet_v2_x0_5", ["relu9"], "random")
    with pytest.raises(ValueError, match=r"taps: expected some of conv1_1, relu1_1, .*got None"):
        Backbone("vgg16", weights="random")
    with pytest.raises(ValueError, match="name: expected one of"):
        list_taps("vgg17")


@pytest.mark.parametrize(
    ("taps", "error", "message"),
    [
        ("relu1_1", TypeError, "taps: expected a list of tap names or a dict"),
        (3, TypeError, "taps: expected a list of tap names or a dict"),
        ([], ValueError, "taps: expected at least one tap"),
        (["relu1_1", "relu1_1"], ValueError, "taps: expected at least one tap, each once"),
        ([1], TypeError, "taps: expected tap names, got 1"),
        ({"relu1_1": (1, 2)}, TypeError, "channels of tap 'relu1_1': expected a ChannelSet or None"),
        ({"relu1_1": ChannelSet([64])}, ValueError, "channels of tap 'relu1_1': expected indices below 64"),
    ],
)
def test_wrong_taps(taps, error, message):
    with pytest.raises(error, match=message):
        Backbone("vgg16", taps, "random")


def test_gabor_is_the_default_and_takes_no_weights():
    backbone = Backbone()
    assert backbone.name == "gabor"
    assert backbone.taps == tuple(tap.name for tap in list_taps("gabor"))
    assert backbone.describe()["weights"] == "built in"
    selected = Backbone("gabor", {"scale2": ChannelSet((1, 5))}).cost(64, 64)
    assert selected.flops < selected.flops_full
    with pytest.raises(ValueError, match="weights: expected 'default' for 'gabor'"):
        Backbone("gabor", weights="random")


def test_images_are_checked():
    backbone = Backbone("alexnet", ["conv3"], "random")
    with pytest.raises(ValueError, match="images: expected height and width of at least 31, got 30 x 64"):
        backbone(torch.rand(1, 3, 30, 64))
    assert backbone(torch.rand(1, 3, 31, 31))["conv3"].shape == (1, 384, 1, 1)
    with pytest.raises(TypeError, match="images: expected floating-point images"):
        backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 3, H, W\)"):
        backbone(torch.rand(1, 1, 64, 64))


@pytest.mark.parametrize("name", CHAIN_NAMES)
def test_min_size_is_the_least_that_leaves_a_map(name):
    chain = build_chain(name)
    smallest = chain.min_size()
    assert min(size for _, size in chain.map_shapes(smallest)) == 1
    assert smallest == 1 or not chain._fits(smallest - 1)


def test_stays_in_eval_mode_without_parameter_gradients():
    backbone = Backbone("shufflenet_v2_x0_5", {"stage2_2": ChannelSet((1, 2))}, "random")
    model = nn.Sequential(nn.Identity(), backbone).train()
    assert not any(part.training for part in backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    backbone(images)["stage2_2"].sum().backward()
    assert images.grad.abs().max() > 0


def test_dtypes_and_layouts():
    backbone = Backbone("squeezenet1_1", {"fire3": ChannelSet((1, 99), (0.3, 3))}, "random")
    images = torch.rand(2, 3, 48, 48)
    expected = backbone(images)["fire3"]
    half = backbone(images.half())["fire3"]
    assert half.dtype == torch.float32
    assert torch.equal(half, backbone(images.half().float())["fire3"])
    channels_last = backbone(images.to(memory_format=torch.channels_last))["fire3"]
    torch.testing.assert_close(channels_last, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(backbone.double()(images)["fire3"].float(), expected, rtol=1e-5, atol=1e-5)


def test_copies_and_pickles():
    backbone = Backbone("shufflenet_v2_x0_5", {"stage2": ChannelSet((1, 8)), "pool1": None}, "random")
    images = torch.rand(1, 3, 32, 32)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(twin(images)["stage2"], backbone(images)["stage2"])
        assert twin.describe() == backbone.describe()


def test_description_is_json():
    chosen = ChannelSet((3, 9), (0.5, 2), name="H-2")
    backbone = Backbone("alexnet", {"relu2": chosen, "relu1": None}, "random", seed=5)
    described = json.loads(json.dumps(backbone.describe(), allow_nan=False))
    assert described["name"] == "alexnet"
    assert described["weights"] == "random, seed 5"
    assert list(described["taps"]) == ["relu1", "relu2"]
    assert described["taps"]["relu1"]["channels"] is None
    assert described["taps"]["relu2"] == {
        "full_channels": 192,
        "weights_hash": backbone.weights_hash("relu2"),
        "channels": {"name": "H-2", "indices": [3, 9], "weights": [0.5, 2.0]},
    }


def test_cost_by_hand():
    first, second, pixels = 3 * 9 * 64, 64 * 9, 32 * 48
    assert Backbone("vgg16", {"relu1_2": ChannelSet((0, 7, 63))}, "random").cost(32, 48) == Cost(
        parameters_full=(first + 64) + 64 * (second + 1),
        parameters=(first + 64) + 3 * (second + 1),
        flops_full=2 * pixels * (first + 64 * second),
        flops=2 * pixels * (first + 3 * second),
    )
    with pytest.raises(ValueError, match="height, width: expected"):
        Backbone("alexnet", ["conv3"], "random").cost(30, 64)


def test_cost_does_not_depend_on_dtype():
    backbone = Backbone("alexnet", {"conv2": ChannelSet((1,))}, "random")
    assert backbone.cost(64, 64) == backbone.double().cost(64, 64)


def test_callers_default_device_and_dtype_do_not_matter():
    expected = Backbone("shufflenet_v2_x0_5", {"stage2_1": ChannelSet((1, 4))}, "random")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            backbone = Backbone("shufflenet_v2_x0_5", {"stage2_1": ChannelSet((1, 4))}, "random")
    finally:
        torch.set_default_dtype(torch.float32)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(backbone(images)["stage2_1"], expected(images)["stage2_1"])
    assert backbone.describe() == expected.describe()


def test_cost_of_an_upstream_tap_counts_what_is_computed_once():
    both = Backbone("vgg16", {"relu1_1": ChannelSet((1,)), "relu1_2": ChannelSet((2,))}, "random").cost(
        32, 32
    )
    assert both == Backbone("vgg16", {"relu1_2": ChannelSet((2,))}, "random").cost(32, 32)


EXPORTED = [
    ("squeezenet1_1", ("fire3", "pool5")),
    ("vgg16", ("relu2_2",)),
    ("alexnet", ("conv2", "relu5")),
    ("shufflenet_v2_x0_5", ("stage2_2", "stage2")),
    # The three pools whose rounding up torch.export cannot follow.
    ("googlenet", ("conv3", "inception4a")),
]


@pytest.mark.parametrize(("name", "taps"), EXPORTED)
def test_onnx_export_with_dynamic_sizes(name, taps):
    backbone, module = _selected(name, taps)
    dynamic = {
        axis: torch.export.Dim(label, min=low)
        for axis, label, low in (
            (0, "b", 1),
            (2, "h", max(2, backbone.min_size)),
            (3, "w", max(2, backbone.min_size)),
        )
    }
    program = torch.onnx.export(
        module, (torch.rand(2, 3, 96, 80),), dynamo=True, verbose=False, dynamic_shapes=(dynamic,)
    )
    file = io.BytesIO()
    program.save(file)
    session = plain_session(file.getvalue())
    feed = session.get_inputs()[0].name
    for images in _odd_images(backbone.min_size):
        for got, expected in zip(session.run(None, {feed: images.numpy()}), module(images), strict=True):
            assert got.shape == expected.shape
            assert np.abs(got - expected.numpy()).max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "taps"), EXPORTED)
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_torchscript_trace(name, taps):
    backbone, module = _selected(name, taps)
    traced = torch.jit.trace(module, torch.rand(2, 3, 96, 80), check_trace=False)
    for images in _odd_images(backbone.min_size):
        for got, expected in zip(traced(images), module(images), strict=True):
            assert got.shape == expected.shape
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_taps_command():
    listed = json.loads(_taps("vgg16", "--json"))["vgg16"]
    assert listed[8] == {"name": "relu2_2", "channels": 128, "stride": 2, "size": 112, "aliases": []}
    table = _taps("shufflenet_v2_x0_5")
    for part in ("stage2_4=stage2", "28 x 28", "channels", "stride"):
        assert part in table
    overview = _taps()
    for part in (*BACKBONE_NAMES, "scale1", "relu2_2", "fire3", "inception4a"):
        assert part in overview
    assert list(json.loads(_taps("--json"))) == list(BACKBONE_NAMES)
    wrong = CliRunner().invoke(command, ["vgg17"])
    assert wrong.exit_code == 2
    assert "'squeezenet1_1'" in wrong.output


class _Tuple(nn.Module):
    """Features as a tuple, which exporters take."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images).values())


def _selected(name, taps):
    channels = {tap.name: tap.channels for tap in list_taps(name)}
    channels |= {alias: tap.channels for tap in list_taps(name) for alias in tap.aliases}
    chosen = {
        tap: ChannelSet(
            range(number % 3, channels[tap], 5), np.linspace(0, 2, len(range(number % 3, channels[tap], 5)))
        )
        for number, tap in enumerate(taps)
    }
    backbone = Backbone(name, chosen, "random")
    return backbone, _Tuple(backbone).eval()


def _odd_images(smallest):
    for batch, height, width in ((1, 0, 0), (1, 1, 2), (3, 65, 63), (2, 64, 101)):
        yield torch.rand(batch, 3, max(height, smallest + height % 7), max(width, smallest + width % 7))


def _torchvision_model(chain, images):
    """torchvision's model with a chain's random weights, and images normalised for it."""
    options = {"init_weights": False, "transform_input": True} if chain.name == "googlenet" else {}
    with torch.device("meta"):
        model = getattr(torchvision.models, chain.name)(weights=None, **options).eval()
    # The classifiers, which are not compared, stay on the meta device: they are too large to fill.
    for classifier in ("classifier", "fc"):
        if hasattr(model, classifier):
            setattr(model, classifier, nn.Identity())
    model.load_state_dict(random_state(chain, 0), strict=False, assign=True)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return model, normalise(images)


def _taps(*arguments):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output
