"""Weights of torchvision backbones: sources, checks and the hash."""

import os
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from pe_runtime import Backbone, ChannelSet

NAME, TAP = "squeezenet1_1", "fire2"


@pytest.fixture(scope="module")
def state():
    """A whole state dict of torchvision's, classifier included."""
    torch.manual_seed(0)
    return dict(torchvision.models.squeezenet1_1(weights=None).state_dict())


def test_files_and_state_dicts_give_the_same_features(state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pth")
    torch.save(state, tmp_path / "weights.pt")
    images = torch.rand(1, 3, 40, 40)
    expected = Backbone(NAME, [TAP], state)
    assert expected.describe()["weights"] == "state dict"
    for name in ("weights.safetensors", "weights.pth", "weights.pt"):
        for path in (tmp_path / name, str(tmp_path / name)):
            backbone = Backbone(NAME, [TAP], path)
            assert torch.equal(backbone(images)[TAP], expected(images)[TAP])
            assert backbone.weights_hash(TAP) == expected.weights_hash(TAP)
            assert backbone.describe()["weights"] == name


def test_real_weights_give_torchvisions_features(shared):
    path = shared / "weights" / "squeezenet1_1.safetensors"
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    model.load_state_dict(load_file(path))
    photograph = np.asarray(Image.open(min((shared / "images" / "kodak").glob("*.png"))).convert("RGB"))
    image = torch.from_numpy(photograph[100:228, 100:260].copy()).permute(2, 0, 1)[None] / 255
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = model.features(normalise(image)).detach()

    features = Backbone(NAME, ["fire9"], path)(image)["fire9"]
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5 * expected.max().item())
    indices = (0, 100, 255, 256, 511)
    selected = Backbone(NAME, {"fire9": ChannelSet(indices)}, path)(image)["fire9"]
    torch.testing.assert_close(
        selected, expected[:, list(indices)], rtol=1e-5, atol=1e-5 * expected.max().item()
    )


def test_published_weights_come_through_torchvision(state, monkeypatch):
    asked = {}

    def get_state_dict(self, **options):
        asked.update(options, url=self.url)
        return state

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", get_state_dict)
    backbone = Backbone(NAME, [TAP])
    assert backbone.weights_hash(TAP) == Backbone(NAME, [TAP], state).weights_hash(TAP)
    assert backbone.describe()["weights"] == "IMAGENET1K_V1"
    assert asked["check_hash"] is asked["progress"] is asked["weights_only"] is True
    assert asked["url"].endswith("squeezenet1_1-b8a52dc0.pth")


@pytest.mark.parametrize("failure", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")])
def test_failed_download_says_to_pass_a_file(failure, monkeypatch):
    def fail(self, **options):
        raise failure

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", fail)
    with pytest.raises(OSError, match=r"weights: could not get .*pass the path of a local file"):
        Backbone(NAME, [TAP])


def test_caller_may_change_their_state_dict_afterwards(state):
    mine = {key: tensor.clone() for key, tensor in state.items()}
    backbone = Backbone(NAME, [TAP], mine)
    images = torch.rand(1, 3, 32, 32)
    before = backbone(images)[TAP].clone()
    for tensor in mine.values():
        tensor.zero_()
    assert torch.equal(backbone(images)[TAP], before)


def test_what_is_not_needed_may_be_absent_or_of_another_shape(state):
    kept = {key: tensor for key, tensor in state.items() if key.startswith(("features.0", "features.3"))}
    kept["classifier.1.weight"] = torch.zeros(10, 512, 1, 1)
    assert Backbone(NAME, [TAP], kept).weights_hash(TAP) == Backbone(NAME, [TAP], state).weights_hash(TAP)


def test_half_and_double_precision_files_are_read_as_float32(state):
    expected = Backbone(NAME, [TAP], state)
    double = Backbone(NAME, [TAP], {key: tensor.double() for key, tensor in state.items()})
    assert double.weights_hash(TAP) == expected.weights_hash(TAP)
    half = Backbone(NAME, [TAP], {key: tensor.half() for key, tensor in state.items()})
    assert half.weights_hash(TAP) != expected.weights_hash(TAP)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_error_lists_everything_that_does_not_fit(state):
    broken = dict(state)
    del broken["features.0.bias"]
    broken["backbone.0.weight"] = torch.zeros(1)
    broken["features.0.weight"] = torch.zeros(64, 3, 7, 7)
    broken["features.3.squeeze.weight"] = state["features.3.squeeze.weight"].int()
    broken["features.3.squeeze.bias"] = torch.full((16,), torch.nan)
    broken["features.3.expand1x1.bias"] = torch.full((64,), 1e300, dtype=torch.float64)
    broken["features.3.expand3x3.bias"] = [0.0] * 64
    with pytest.raises(ValueError, match="weights: expected those of 'squeezenet1_1' up to 'fire2'") as error:
        Backbone(NAME, [TAP], broken)
    for part in (
        "missing: features.0.bias;",
        "unknown: backbone.0.weight;",
        "features.0.weight: expected shape (64, 3, 3, 3), got (64, 3, 7, 7)",
        "features.3.squeeze.weight: expected floating point, got torch.int32",
        "features.3.squeeze.bias: expected finite",
        "features.3.expand1x1.bias: expected finite",
        "features.3.expand3x3.bias: expected a dense tensor",
    ):
        assert part in str(error.value)


def test_listing_stays_readable():
    # Up to relu5_1 there are 11 convolutions, 22 tensors; the first five are named.
    with pytest.raises(ValueError, match=r"missing: .* and 17 more; unknown: .* and 95 more") as error:
        Backbone("vgg16", ["relu5_1"], {f"wrong.{number}": torch.zeros(1) for number in range(100)})
    assert len(str(error.value)) < 600


def test_weights_of_another_network_are_refused(state):
    with pytest.raises(ValueError, match="weights: expected those of 'squeezenet1_0'"):
        Backbone("squeezenet1_0", [TAP], state)


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_run(state, tmp_path):
    ran = tmp_path / "ran"
    torch.save({**state, "payload": _Payload(ran)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="weights: expected a whole state dict of nothing but tensors"):
        Backbone(NAME, [TAP], tmp_path / "evil.pth")
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@given(cut=st.floats(0, 0.999))
@settings(max_examples=15, deadline=None)
def test_truncated_files_are_refused(suffix, cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    small = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    path = folder / f"weights{suffix}"
    save_file(small, path) if suffix == ".safetensors" else torch.save(small, path)
    Backbone(NAME, ["relu1"], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ValueError, match="weights: expected a whole state dict"):
        Backbone(NAME, ["relu1"], path)


def test_other_wrong_weights(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"weights: expected a state dict \(name to tensor\), got list"):
        Backbone(NAME, [TAP], tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match=r"weights: expected an existing file, got .*nowhere\.pth"):
        Backbone(NAME, [TAP], tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"weights: expected 'default', 'random'.*got 'defualt'"):
        Backbone(NAME, [TAP], "defualt")
    with pytest.raises(TypeError, match="weights: expected 'default', 'random', a path or a state dict, got"):
        Backbone(NAME, [TAP], 3)
    with pytest.raises(TypeError, match="seed: expected an integer"):
        Backbone(NAME, [TAP], "random", seed=0.5)


def test_random_weights_depend_on_seed_and_key_alone():
    images = torch.rand(1, 3, 48, 48)
    deep = Backbone("shufflenet_v2_x0_5", ["stage2_1", "stage3_1"], "random", seed=3)
    shallow = Backbone("shufflenet_v2_x0_5", ["stage2_1"], "random", seed=3)
    other = Backbone("shufflenet_v2_x0_5", ["stage2_1"], "random", seed=4)
    assert torch.equal(deep(images)["stage2_1"], shallow(images)["stage2_1"])
    assert deep.weights_hash("stage2_1") == shallow.weights_hash("stage2_1")
    assert other.weights_hash("stage2_1") != shallow.weights_hash("stage2_1")
    assert deep.weights_hash("stage3_1") != deep.weights_hash("stage2_1")


def test_hash_is_that_of_the_unsliced_weights():
    full = Backbone(NAME, ["fire3"], "random").weights_hash("fire3")
    chosen = ChannelSet((1, 2), (1, 2), weights_hash=full)
    assert Backbone(NAME, {"fire3": chosen, "fire6": None}, "random").weights_hash("fire3") == full
    with pytest.raises(
        ValueError, match=r"channels of tap 'fire3': expected a set derived from these weights"
    ):
        Backbone(NAME, {"fire3": chosen}, "random", seed=1)


def test_hash_sees_every_tensor_up_to_the_tap_and_none_after(state):
    reference = Backbone(NAME, [TAP], state).weights_hash(TAP)
    for key, tensor in state.items():
        changed = {**state, key: tensor + 1}
        needed = key.startswith(("features.0.", "features.3."))
        assert (Backbone(NAME, [TAP], changed).weights_hash(TAP) != reference) == needed


def test_hash_of_a_tap_that_is_not_there():
    with pytest.raises(ValueError, match="tap: expected one of 'fire2', got 'fire3'"):
        Backbone(NAME, [TAP], "random").weights_hash("fire3")
