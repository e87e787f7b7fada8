"""Selected, weighted, truncated chains against select-then-weight on the full network."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual

from pe_runtime import Backbone, ChannelSet
from pe_runtime.backbones.architectures import CeilMaxPool2d, build_chain
from pe_runtime.backbones.slicing import Concat, Live, PassThrough, Select, slice_chain, slice_module
from pe_runtime.backbones.weights import random_state
from pe_runtime.channels import random_indices

CASES = [
    *[("vgg16", tap) for tap in ("conv1_1", "relu2_2", "pool3", "conv4_1", "relu5_3")],
    *[("vgg19", tap) for tap in ("relu1_2", "pool2", "relu5_4")],
    *[("alexnet", tap) for tap in ("conv1", "pool1", "conv3", "relu5", "pool5")],
    *[("squeezenet1_0", tap) for tap in ("relu1", "fire2", "pool4", "pool8", "fire9")],
    *[("squeezenet1_1", tap) for tap in ("conv1", "pool1", "fire3", "pool5", "fire9")],
    *[("shufflenet_v2_x0_5", tap) for tap in ("pool1", "stage2_1", "stage2", "stage3_6", "stage4")],
    *[(f"shufflenet_v2_{size}", tap) for size in ("x1_0", "x1_5", "x2_0") for tap in ("stage2_3", "conv5")],
    *[("googlenet", tap) for tap in ("conv1", "pool1", "conv3", "inception3b", "pool3", "inception4e")],
    *[("googlenet", tap) for tap in ("pool4", "inception5b")],
]


@pytest.mark.parametrize(("name", "tap"), CASES)
def test_selected_equals_select_then_weight(name, tap):
    full = Backbone(name, [tap], "random")
    channels = full.full_channels[tap]
    images = _images(2, max(64, full.min_size), max(71, full.min_size))
    expected = full(images)[tap]
    for count, seed in ((channels // 10, 1), (channels, 2)):
        chosen = _random_set(channels, count, seed)
        small = Backbone(name, {tap: chosen}, "random")
        assert small.out_channels == {tap: count}
        assert not any(isinstance(part, Select) and part.scales for part in small.modules())
        _assert_close_float32(small(images)[tap], expected, chosen)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("vgg16", "relu2_2"),
        ("alexnet", "pool5"),
        ("squeezenet1_0", "fire5"),
        ("squeezenet1_1", "fire6"),
        ("googlenet", "inception4a"),
        ("shufflenet_v2_x0_5", "stage3_3"),
    ],
)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_any_taps_and_sets_agree_in_float64(name, last, data):
    modules, widths = _double_chain(name, last)
    images = _images(1, 64, 65).double()
    positions = data.draw(st.sets(st.integers(0, len(modules) - 1), min_size=1, max_size=3), label="taps")
    taps = {position: data.draw(_channel_sets(widths[position])) for position in positions}
    depth = max(positions) + 1

    sliced, heads = slice_chain(modules[:depth], widths[:depth], taps)

    assert set(heads) == positions
    features, full = images, images
    for position in range(depth):
        features, full = sliced[position](features), modules[position](full)
        if position in taps:
            _assert_close_float64(heads[position](features), _select_then_weight(full, taps[position]))


def test_taps_upstream_of_one_another_share_what_they_need():
    first, second = ChannelSet((3, 20), (0.5, 2.0)), ChannelSet((0, 1, 30), (1.0, 0.0, 3.0))
    name = "shufflenet_v2_x0_5"
    full = Backbone(name, ["stage2_2", "stage2", "stage3_1"], "random")
    small = Backbone(name, {"stage3_1": None, "stage2": second, "stage2_2": first}, "random")
    images = _images(1, 64, 80)
    expected, got = full(images), small(images)
    assert small.taps == tuple(got) == ("stage2_2", "stage2", "stage3_1")
    _assert_close_float32(got["stage2_2"], expected["stage2_2"], first)
    _assert_close_float32(got["stage2"], expected["stage2"], second)
    _assert_close_float32(got["stage3_1"], expected["stage3_1"], None)


@pytest.mark.parametrize(
    ("name", "upstream", "last"),
    [("alexnet", "conv1", "pool1"), ("shufflenet_v2_x0_5", "stage2_1", "stage2_2")],
)
def test_weights_of_the_last_tap_do_not_reach_a_tap_that_it_passes_through(name, upstream, last):
    # Nothing between the two taps can take the weights of what passes through.
    sets = {upstream: ChannelSet((1, 4, 20)), last: ChannelSet((0, 1, 2, 20), (0.5, 2.0, 0.0, 3.0))}
    expected = Backbone(name, [upstream, last], "random")(_images(1, 64, 64))
    got = Backbone(name, sets, "random")(_images(1, 64, 64))
    for tap, chosen in sets.items():
        _assert_close_float32(got[tap], expected[tap], chosen)


@pytest.mark.parametrize(
    ("name", "tap"), [("vgg16", "relu2_2"), ("googlenet", "inception3a"), ("shufflenet_v2_x0_5", "stage2_2")]
)
def test_nothing_after_the_last_tap_exists(name, tap):
    backbone = Backbone(name, [tap], "random")
    chain = build_chain(name)
    upto = [step.name for step in chain.steps][: chain.position(tap) + 1]
    assert list(backbone.network.steps) == upto
    assert not any(isinstance(part, nn.Linear) for part in backbone.modules())
    needed = chain.upto(chain.position(tap)).state()
    learned = [tensor for key, tensor in needed.items() if "running" not in key]
    assert sum(map(torch.numel, backbone.parameters())) == sum(map(torch.numel, learned))


def test_convolution_before_relu_is_sliced_and_weighted():
    full = Backbone("vgg16", ["relu2_2"], "random").network.steps["conv2_2"]
    small = Backbone("vgg16", {"relu2_2": ChannelSet((3, 70), (2.0, 0.5))}, "random").network.steps["conv2_2"]
    assert small.out_channels == 2
    assert torch.equal(small.weight, full.weight[[3, 70]] * torch.tensor([2.0, 0.5])[:, None, None, None])
    assert torch.equal(small.bias, full.bias[[3, 70]] * torch.tensor([2.0, 0.5]))


def test_fire_is_sliced_through_its_concatenation():
    chosen = ChannelSet((1, 5, 63, 64, 127))
    fire = Backbone("squeezenet1_1", {"fire2": chosen}, "random").network.steps["fire2"]
    assert sorted(conv.out_channels for conv in _convolutions(fire)) == [2, 3, 16]
    only_3x3 = Backbone("squeezenet1_1", {"fire2": ChannelSet((64, 90))}, "random").network.steps["fire2"]
    kernels = [(conv.kernel_size[0], conv.out_channels) for conv in _convolutions(only_3x3)]
    assert kernels == [(1, 16), (3, 2)]
    assert not any(isinstance(part, Concat) for part in only_3x3.modules())


@pytest.mark.parametrize(
    ("indices", "outputs"),
    [
        ((0, 63), [2]),
        ((64,), [96, 1]),
        ((192, 200, 223), [16, 3]),
        ((224, 255), [2]),
        ((5, 230), [1, 1]),
        ((60, 100, 210, 250), [1, 96, 1, 16, 1, 1]),
    ],
)
def test_inception_branches_with_nothing_live_are_dropped(indices, outputs):
    step = Backbone("googlenet", {"inception3a": ChannelSet(indices)}, "random").network.steps["inception3a"]
    assert [conv.out_channels for conv in _convolutions(step)] == outputs


def test_shufflenet_units_whose_outputs_all_pass_through_vanish():
    # Even channels after the shuffle are the untouched half: of stage2_2, the first half of stage2_1.
    chosen = ChannelSet((0, 2, 8))
    network = Backbone("shufflenet_v2_x0_5", {"stage2_2": chosen}, "random").network
    assert isinstance(network.steps["stage2_2"], nn.Identity)
    made = [conv.out_channels for conv in _convolutions(network.steps["stage2_1"])]
    # Channels 0, 1 and 4 of stage2_1: two of its first branch (depthwise 24, then 2), one of its second.
    assert made == [24, 2, 24, 24, 1]


def test_shufflenet_unit_computes_only_live_channels_of_its_branch():
    # 0 and 2 pass through; 1 and 5 are the branch's outputs 0 and 2.
    chosen = ChannelSet((0, 1, 2, 5))
    step = Backbone("shufflenet_v2_x0_5", {"stage2_4": chosen}, "random").network.steps["stage2_4"]
    assert [conv.out_channels for conv in _convolutions(step)] == [24, 24, 2]
    assert [part.passed for part in step.modules() if isinstance(part, PassThrough)] == [2]


def test_depthwise_convolution_keeps_its_groups():
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=6).double()
    live = Live((4, 1), (2.0, 0.5))
    sliced, read = slice_module(conv, live)
    assert (sliced.groups, sliced.in_channels, read) == (2, 2, Live.plain((4, 1)))
    images = torch.rand(1, 6, 8, 8, dtype=torch.float64)
    expected = conv(images)[:, [4, 1]] * torch.tensor([2.0, 0.5])[:, None, None]
    torch.testing.assert_close(sliced(images[:, [4, 1]]), expected, rtol=1e-12, atol=1e-12)


def test_layers_without_a_rule_are_refused():
    with pytest.raises(TypeError, match="module: expected a layer of a known network, got Sigmoid"):
        slice_module(nn.Sigmoid(), Live.plain((0,)))
    with pytest.raises(TypeError, match="one group or one group per channel"):
        slice_module(nn.Conv2d(4, 4, 1, groups=2), Live.plain((0,)))


def test_slicing_leaves_the_full_modules_as_they_were():
    unit = InvertedResidual(8, 8, 1).eval()
    before = {key: value.clone() for key, value in unit.state_dict().items()}
    slice_module(unit, Live((1, 2), (3.0, 0.0)))
    assert all(torch.equal(value, before[key]) for key, value in unit.state_dict().items())


@given(
    st.integers(2, 4).flatmap(lambda k: st.tuples(st.just(k), st.integers(2, k))),
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
)
@settings(max_examples=50, deadline=None)
def test_ceil_pooling_equals_torchs(window, size):
    features = torch.randn(1, 2, *size)
    expected = nn.MaxPool2d(*window, ceil_mode=True)(features)
    assert torch.equal(CeilMaxPool2d(*window)(features), expected)


@cache
def _double_chain(name, last):
    chain = build_chain(name)
    chain = chain.upto(chain.position(last))
    widths = [channels for channels, _ in chain.map_shapes(64)]
    chain.load(random_state(chain, 0))
    return [step.module.double() for step in chain.steps], widths


@st.composite
def _channel_sets(draw, width):
    if draw(st.booleans()) and draw(st.booleans()):
        return None
    indices = sorted(draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=12)))
    if draw(st.booleans()):
        return ChannelSet(indices)
    weight = st.just(0.0) | st.floats(1e-3, 10)
    weights = draw(st.lists(weight, min_size=len(indices), max_size=len(indices)))
    return ChannelSet(indices, weights if any(weights) else None)


def _random_set(channels, count, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 3, count)
    return ChannelSet(random_indices(channels, count, seed), weights)


def _select_then_weight(features, chosen):
    if chosen is None:
        return features
    weights = torch.tensor(chosen.weights or [1.0] * len(chosen), dtype=features.dtype)
    return features[:, list(chosen.indices)] * weights[:, None, None]


def _assert_close_float32(got, full, chosen):
    """Within 1e-5 of the tap's largest activation, times the channel's weight.

    Not of the channel's own largest: a channel that ReLU leaves barely alive is a small difference of
    large terms, which float32 itself does not hold to 1e-5. Float64 is held to that below.
    """
    expected = _select_then_weight(full, chosen)
    limit = 1e-5 * _select_then_weight(full.abs().amax().expand_as(full), chosen)
    assert got.shape == expected.shape
    assert ((got - expected).abs() <= limit).all()


def _assert_close_float64(got, expected):
    """Within 1e-11 of each channel's largest value."""
    assert got.shape == expected.shape
    error = (got - expected).abs().amax(dim=(0, 2, 3))
    assert (error <= 1e-11 * expected.abs().amax(dim=(0, 2, 3))).all(), error.max()


def _convolutions(module):
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def _images(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7))
