"""Profiles: files that are checked in full, channel sets, plots."""

import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from safetensors import safe_open

from pe_runtime.profiles import SCORES, Profile
from pe_runtime.stimuli import Stimulus

STIMULUS = Stimulus(size=32, frequencies=5, orientations=4)


def make(channels=12, seed=0, zeros=0):
    rng = np.random.default_rng(seed)
    frequency, orientation = rng.random((channels, 5)), rng.random((channels, 4))
    frequency[:zeros] = orientation[:zeros] = 0
    return Profile("gabor", "scale1", "ab" * 32, STIMULUS, "float32", frequency, orientation)


def rewrite(path, change_metadata=None, change_tensors=None):
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()["pe_runtime"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_metadata:
        change_metadata(metadata)
    if change_tensors:
        change_tensors(tensors)
    safetensors.numpy.save_file(tensors, path, {"pe_runtime": json.dumps(metadata)})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "profile.safetensors"
    make().save(path)
    return path


def test_round_trip(saved):
    profile, again = make(), Profile.load(saved)
    for name in ("backbone", "tap", "weights_hash", "dtype", "version"):
        assert getattr(again, name) == getattr(profile, name)
    assert again.stimulus.to_dict() == profile.stimulus.to_dict()
    for name in ("frequency_tuning", "orientation_tuning", *SCORES):
        np.testing.assert_array_equal(getattr(again, name), getattr(profile, name))


def test_file_says_all_of_itself(saved):
    with safe_open(saved, framework="numpy") as file:
        metadata = json.loads(file.metadata()["pe_runtime"])
    assert metadata["stimulus"]["pixels_per_degree"] == 32.0
    assert metadata["stimulus"].keys() == Stimulus.__dataclass_fields__.keys()
    assert {"backbone", "tap", "weights_hash", "pe_runtime", "dtype", "sha256"} <= metadata.keys()


def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "profile.safetensors"
    path.write_text("precious")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["profile.safetensors"]
    assert path.read_text() == "precious"


def test_wrong_suffix_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.safetensors"):
        make().save(tmp_path / "profile.pt")
    with pytest.raises(FileNotFoundError, match="profile: no file"):
        Profile.load(tmp_path / "none.safetensors")


def forget_a_field(metadata):
    del metadata["tap"]


def other_format(metadata):
    metadata["format"] = 99


def other_stimulus(metadata):
    metadata["stimulus"]["pixels_per_degree"] = 64.0


def number_for_text(metadata):
    metadata["backbone"] = 7


def other_score(tensors):
    tensors["pe"][0] += 1e-3


def other_curve(tensors):
    tensors["frequency_tuning"][0, 0] += 1


def missing_array(tensors):
    del tensors["mu2"]


def single_precision(tensors):
    tensors["mu1"] = tensors["mu1"].astype(np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (forget_a_field, "exactly the fields"),
        (other_format, "format: expected 1, got 99"),
        (other_stimulus, "sha256"),
        (number_for_text, "backbone: expected text"),
    ],
)
def test_changed_metadata_is_noticed(saved, change, message):
    rewrite(saved, change_metadata=change)
    with pytest.raises(ValueError, match=message):
        Profile.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_score, "sha256"),
        (other_curve, "sha256"),
        (missing_array, "expected the arrays"),
        (single_precision, "expected float64"),
    ],
)
def test_changed_arrays_are_noticed(saved, change, message):
    rewrite(saved, change_tensors=change)
    with pytest.raises(ValueError, match=message):
        Profile.load(saved)


def test_scores_that_do_not_follow_are_noticed_even_with_a_right_checksum(saved):
    from pe_runtime.profiles import _digest

    forged = {}

    def forge_arrays(values):
        values["pe"] *= 2
        forged.update(values)

    def forge_checksum(metadata):
        del metadata["sha256"]
        metadata["sha256"] = _digest(metadata, forged)

    rewrite(saved, change_tensors=forge_arrays)
    rewrite(saved, change_metadata=forge_checksum)
    with pytest.raises(ValueError, match="pe: does not follow"):
        Profile.load(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, 900])
def test_truncated_files_are_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a readable profile"):
        Profile.load(saved)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="expected metadata"):
        Profile.load(path)


@pytest.mark.parametrize("shape", [(0, 5), (3, 6), (5,)])
def test_curves_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match="frequency_tuning: expected shape"):
        Profile("gabor", "scale1", "", STIMULUS, "float32", np.zeros(shape), np.zeros((3, 4)))


def test_curves_that_do_not_match_or_are_not_finite():
    with pytest.raises(ValueError, match="expected the same number of channels"):
        Profile("gabor", "scale1", "", STIMULUS, "float32", np.zeros((2, 5)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="orientation_tuning: expected finite"):
        Profile("gabor", "scale1", "", STIMULUS, "float32", np.zeros((3, 5)), np.full((3, 4), np.nan))


def test_sets_and_their_weights():
    profile = make()
    ranked = np.argsort(profile.pe)[::-1]
    top = profile.top(25, weights="pe")
    assert set(top.indices) == set(ranked[:3].tolist())
    assert top.name == "H-25 x pe"
    assert top.weights_hash == profile.weights_hash
    np.testing.assert_allclose(np.mean(top.weights), 1)
    np.testing.assert_allclose(
        np.array(top.weights) / top.weights[0], profile.pe[list(top.indices)] / profile.pe[top.indices[0]]
    )
    assert set(profile.bottom(25).indices) == set(ranked[-3:].tolist())
    assert profile.all().indices == tuple(range(12))
    assert profile.weighted().weights == profile.all(weights="pe").weights
    assert len(profile.random(25, seed=1)) == len(top)
    assert profile.random(25, seed=1) == profile.random(25, seed=1)
    assert profile.random(25, seed=1).indices != profile.random(25, seed=2).indices
    assert profile.top(25, score="mu1").indices == tuple(sorted(np.argsort(profile.mu1)[-3:].tolist()))


def test_explicit_lists_keep_numbers_with_their_channels():
    chosen = make().select([7, 2, 5], weights=[0.7, 0.2, 0.5])
    assert chosen.indices == (2, 5, 7)
    assert chosen.weights == (0.2, 0.5, 0.7)


@pytest.mark.parametrize("arguments", [([0, 12],), ([1, 1],), ([0, 1], [1.0]), ([],)])
def test_bad_explicit_lists(arguments):
    with pytest.raises(ValueError, match="expected"):
        make().select(*arguments)


def test_unknown_score_and_silent_channels():
    with pytest.raises(ValueError, match="score: expected one of 'pe', 'mu1'"):
        make().top(10, score="loudness")
    with pytest.raises(ValueError, match="weights: the selected channels all score 0"):
        make(zeros=6).bottom(30, weights="pe")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots_are_written(tmp_path, suffix):
    profile = make(zeros=3)
    for name, draw in (("tuning", profile.plot), ("scores", profile.plot_scores)):
        path = tmp_path / f"{name}{suffix}"
        draw(path)
        if suffix == ".png":
            assert np.ptp(np.asarray(Image.open(path).convert("L"))) > 100
        else:
            assert path.read_text().lstrip().startswith("<?xml")


def test_plot_of_a_profile_without_any_score(tmp_path):
    make(channels=1, zeros=1).plot_scores(tmp_path / "flat.png")
    make(channels=1, zeros=1).plot(tmp_path / "flat-tuning.png")


def test_plots_refuse_what_they_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.png or \.svg"):
        make().plot(tmp_path / "tuning.gif")
    with pytest.raises(ValueError, match="channels: expected numbers below 12, got 12"):
        make().plot(tmp_path / "tuning.png", [0, 12])
    with pytest.raises(ValueError, match="channels: expected 1 to 16"):
        make().plot(tmp_path / "tuning.png", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["", "format", "stimulus", "backbone"])
def test_deeply_nested_metadata_is_refused(saved, field):
    with safe_open(saved, framework="numpy") as file:
        whole = file.metadata()["pe_runtime"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # From depths that are read to those that JSON's parser, or what looks at its values, does not reach.
    for levels in (10, 500, 900, 950, 980, 1_000, 100_000):
        nested = "[" * levels + "]" * levels
        text = json.dumps({**json.loads(whole), field: 0}).replace(f'"{field}": 0', f'"{field}": {nested}')
        safetensors.numpy.save_file(tensors, saved, {"pe_runtime": text if field else nested})
        with pytest.raises(ValueError, match=f"profile: '{saved}' "):
            Profile.load(saved)


def test_numbers_beyond_floating_point_are_refused(saved):
    from pe_runtime.profiles import _digest

    def enlarge(metadata):
        metadata["stimulus"]["contrast"] = 10**400
        metadata.pop("sha256")
        metadata["sha256"] = _digest(metadata, make()._tensors())

    rewrite(saved, enlarge)
    with pytest.raises(ValueError, match=f"profile: '{saved}' does not hold together"):
        Profile.load(saved)
