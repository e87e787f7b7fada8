"""What checkpoints have of losses and metrics, what they refuse, and hashes of weights that were changed."""

import copy
import io
import json
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import pe_runtime as pe
from pe_runtime.backbones.state import pack, unpack

pytestmark = pytest.mark.usefixtures("one_thread")
NAME, TAP = "squeezenet1_1", "fire3"
H10 = pe.ChannelSet(range(0, 24, 2), name="H-10")
RANDOM10 = pe.ChannelSet(range(1, 25, 2), name="random-10 seed 0")


def backbone(chosen=H10, **options):
    return pe.Backbone(NAME, {"relu1": None, TAP: chosen}, "random", **options)


def loss(*args, **options):
    return pe.TotalLoss(pe.ContextualLoss(backbone(*args, **options)))


def gabor(chosen=None):
    return pe.Backbone("gabor", {"scale1": chosen, "scale2": None, "lowpass": None})


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 40, 44, generator=generator) for _ in range(2)]


def network_of(module):
    return module.loss.backbone.network


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


OTHERS = {
    "channels": (lambda: loss(RANDOM10), "channels of tap 'fire3': expected 'random-10 seed 0', 12 of 128 "),
    "weights": (
        lambda: loss(H10.weighted([2.0] * 12)),
        r"weights of the channels of tap 'fire3': expected 'H-10', 12 of 128 \(0, 2, 4, 6, ...\) \(2.0, 2.0,",
    ),
    "all channels": (lambda: loss(None), "channels of tap 'fire3': expected all 128, got 'H-10', 12 of 128"),
    "network": (lambda: loss(H10, seed=1), "weights_hash of tap 'relu1': expected [0-9a-f]{12}..., got "),
    "taps": (
        lambda: pe.TotalLoss(pe.ContextualLoss(pe.Backbone(NAME, {TAP: H10}, "random"))),
        "taps: expected fire3, got fire3, relu1",
    ),
    "name": (
        lambda: pe.TotalLoss(pe.ContextualLoss(gabor())),
        "name: expected 'gabor', got 'squeezenet1_1'",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("save_weights", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_the_state_of_another_is_refused(other, save_weights, strict):
    build, message = OTHERS[other]
    module = build()
    before = module(*images())
    state = through_a_file(loss(save_weights=save_weights).state_dict())
    expected = "expected the state of this network and these channels: .*"
    with pytest.raises(RuntimeError, match=expected + message):
        module.load_state_dict(state, strict=strict)
    assert torch.equal(module(*images()), before)


def test_one_selection_by_other_names_is_the_same():
    everything = pe.ChannelSet(range(128), [1.0] * 128, "F")
    loss(None).load_state_dict(loss(everything).state_dict())
    loss(everything).load_state_dict(loss(None).state_dict())
    loss(H10).load_state_dict(loss(pe.ChannelSet(H10.indices, name="custom")).state_dict())


def test_the_frozen_network_stays_out_of_a_checkpoint():
    model = nn.ModuleDict({"network": nn.Conv2d(3, 3, 3), "loss": loss()})
    state = model.state_dict()
    assert list(state) == ["network.weight", "network.bias", "loss.loss.backbone._extra_state"]
    changed = {name: value + 1 for name, value in state.items() if name.startswith("network.")}
    result = model.load_state_dict(through_a_file({**state, **changed}))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(model["network"].bias, changed["network.bias"])


def test_the_frozen_network_is_kept_where_asked_for():
    kept = loss(save_weights=True)
    state = kept.state_dict()
    assert len(state) == 1 + len(network_of(kept).state_dict())
    target = loss()
    assert list(target.state_dict()) == ["loss.backbone._extra_state"]
    target.load_state_dict(load(save(through_a_file(state))))
    target.loss.backbone.save_weights = True
    assert target.state_dict().keys() == state.keys()


def test_what_takes_a_gradient_is_in_the_checkpoint():
    tuned = loss()
    weight = network_of(tuned).steps["conv1"].weight.requires_grad_()
    tuned(*images()).backward()
    with torch.no_grad():
        weight -= 0.1 * weight.grad
    state = through_a_file(tuned.state_dict())
    assert sorted(state) == ["loss.backbone._extra_state", "loss.backbone.network.steps.conv1.weight"]
    resumed = loss()
    resumed.load_state_dict(state)
    assert torch.equal(resumed(*images()), tuned(*images()))
    hashes = [module.loss.backbone.weights_hash(TAP) for module in (resumed, tuned, loss())]
    assert hashes[0] == hashes[1] != hashes[2]
    del state["loss.backbone.network.steps.conv1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*network.steps.conv1.weight"):
        loss().load_state_dict(state)


def edit_by_data(tensor):
    tensor.data.mul_(0.999).add_(0.001)


def edit_in_place(tensor):
    with torch.no_grad():
        tensor.view(-1)[0] += 1e-3


@pytest.mark.parametrize("edit", [edit_by_data, edit_in_place])
@pytest.mark.parametrize(
    ("build", "find", "unseen", "seen"),
    [
        (backbone, lambda net: next(net.steps["fire3"].parameters()), "relu1", TAP),
        (backbone, lambda net: net.mean, None, "relu1"),
        (gabor, lambda net: net.scales[1].colours[0].kernels, "scale1", "scale2"),
        (gabor, lambda net: net.lowpass.gains, "scale2", "lowpass"),
        (gabor, lambda net: net.pyramid, None, "scale2"),
    ],
)
def test_hash_sees_weights_that_are_changed(edit, build, find, unseen, seen):
    module = build()
    tensor = find(module.network)
    before, hashes = tensor.clone(), {tap: module.weights_hash(tap) for tap in module.taps}
    edit(tensor)
    changed = module.weights_hash(seen)
    assert changed != hashes[seen]
    assert module.describe()["taps"][seen]["weights_hash"] == changed
    assert unseen is None or module.weights_hash(unseen) == hashes[unseen]
    assert copy.deepcopy(module).weights_hash(seen) == changed
    tensor.data.copy_(before)
    assert module.weights_hash(seen) == hashes[seen]


@pytest.mark.parametrize("build", [backbone, gabor])
def test_hash_does_not_depend_on_precision_or_place(build):
    module = build(pe.ChannelSet((1, 5), (0.3, 1.7)))
    expected = [module.weights_hash(tap) for tap in module.taps]
    for convert in (
        *(lambda m: m.double(), lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to("meta")),
        lambda m: m.to(memory_format=torch.channels_last),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
    ):
        converted = convert(copy.deepcopy(module))
        assert [converted.weights_hash(tap) for tap in module.taps] == expected
        module.load_state_dict(converted.state_dict())
    with pytest.raises(ValueError, match="tap: expected one of"):
        module.weights_hash("fire9")


def test_hash_sees_changes_in_half_precision():
    module = backbone().half()
    before = module.weights_hash("relu1")
    edit_by_data(module.network.steps["conv1"].weight)
    assert module.weights_hash("relu1") != before


def test_exported_files_say_that_weights_were_changed(tmp_path):
    metric = pe.FeatureDistance(backbone())
    edit_by_data(metric.backbone.network.steps["conv1"].weight)
    path = pe.export(metric, tmp_path / "metric.pt", verify=False)
    extra = {"pe_runtime": ""}
    torch.jit.load(path, _extra_files=extra)
    taps = json.loads(extra["pe_runtime"])["backbone"]["taps"]
    assert taps[TAP]["weights_hash"] == metric.backbone.weights_hash(TAP) != backbone().weights_hash(TAP)


def test_the_state_of_a_changed_network_is_refused_unless_it_is_there():
    changed = loss()
    edit_by_data(network_of(changed).steps["conv1"].weight)
    target = loss()
    with pytest.raises(RuntimeError, match=r"weights_hash of tap 'relu1'.*weights_hash of tap 'fire3'"):
        target.load_state_dict(changed.state_dict())
    with pytest.raises(RuntimeError, match="weights_hash of tap 'relu1'"):
        changed.load_state_dict(target.state_dict())
    changed.load_state_dict(changed.state_dict())
    changed.loss.backbone.save_weights = True
    target.load_state_dict(changed.state_dict())
    assert torch.equal(target(*images()), changed(*images()))
    assert target.loss.backbone.weights_hash(TAP) == changed.loss.backbone.weights_hash(TAP)


def undescribed(module):
    """As checkpoints were before they said what they are of."""
    module.loss.backbone.save_weights = True
    state = module.state_dict()
    del state["loss.backbone._extra_state"]
    return state


@pytest.mark.parametrize("strict", [False, True])
def test_weights_without_a_description_are_taken_where_they_are_the_same(strict):
    state = undescribed(loss())
    assert not loss().load_state_dict(state, strict=strict).missing_keys
    loss().double().load_state_dict(state, strict=strict)
    for other in (loss(RANDOM10), loss(seed=1)):
        with pytest.raises(
            RuntimeError, match=r"backbone\.network\.steps\..*, in a state without loss.*_extra"
        ):
            other.load_state_dict(state, strict=strict)
    del state["loss.backbone.network.steps.conv1.weight"]
    assert not loss().load_state_dict(state, strict=strict).missing_keys


def test_a_state_without_anything_lacks_the_description():
    with pytest.raises(RuntimeError, match=r"Missing key.*loss.backbone._extra_state"):
        loss().load_state_dict({})
    assert loss().load_state_dict({}, strict=False).missing_keys == ["loss.backbone._extra_state"]


VALID = {"name": NAME, "taps": {}, "network": []}


@pytest.mark.parametrize(
    "state",
    [
        "text",
        torch.zeros((2, 2), dtype=torch.uint8),
        torch.zeros(3, dtype=torch.uint8),
        torch.zeros(3, dtype=torch.uint8, device="meta"),
        torch.tensor(list(b"[" * 100_000), dtype=torch.uint8),
        torch.tensor(list(b'{"format": 2}'), dtype=torch.uint8),
        torch.tensor(list(b'{"format": 1}'), dtype=torch.uint8),
        pack({**VALID, "taps": [1]}),
        pack({**VALID, "taps": {TAP: {"full_channels": "many", "channels": None, "weights_hash": ""}}}),
        pack({**VALID, "taps": {TAP: {"full_channels": 1, "channels": {"indices": 5}, "weights_hash": ""}}}),
        pack({**VALID, "network": [5]}),
        pack({**VALID, "network": None}),
    ],
    ids=range(12),
)
def test_damaged_descriptions_are_refused(state):
    with pytest.raises(RuntimeError, match=r"backbone._extra_state: expected"):
        loss().load_state_dict({"loss.backbone._extra_state": state})


@pytest.mark.parametrize("strict", [False, True])
def test_loaded_by_assignment(strict):
    state = loss(save_weights=True).state_dict()
    target = loss()
    target.load_state_dict(state, assign=True, strict=strict)
    assert network_of(target).steps["conv1"].weight.data_ptr() == (
        state["loss.backbone.network.steps.conv1.weight"].data_ptr()
    )
    target.load_state_dict(loss().state_dict(), assign=True, strict=strict)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert torch.equal(target(*images()), loss()(*images()))


def test_averages_of_modules_and_of_states():
    """As programs make them that know nothing of the loss in the model."""
    model = nn.ModuleDict({"network": nn.Conv2d(3, 3, 3), "loss": loss()})
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    averaged.load_state_dict(averaged.state_dict())
    mean = {name: (0.999 * value + 0.001 * value) for name, value in model.state_dict().items()}
    model.load_state_dict(mean)


def test_description_is_plain_bytes():
    state = backbone().state_dict()["_extra_state"]
    assert (state.dtype, state.device.type, state.ndim) == (torch.uint8, "cpu", 1)
    description = unpack(state)
    assert json.loads(bytes(state.tolist())) == description
    assert description["taps"] == backbone().describe()["taps"]


def test_linear_weights_of_lpips_are_state():
    network = backbone(None)
    linear = {tap: torch.rand(count) for tap, count in network.out_channels.items()}
    metric = pe.LPIPS(network, linear=linear)
    assert sorted(metric.state_dict()) == ["backbone._extra_state", "linear_fire3", "linear_relu1"]
