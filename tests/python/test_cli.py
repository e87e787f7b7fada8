"""The command line from end to end: taps, score, export, describe; and its errors."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from pe_runtime.cli import cli, main
from pe_runtime.profiles import Profile

QUICK = ["--size", "64", "--frequencies", "6", "--orientations", "4"]


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    done = invoke(
        "score",
        "gabor",
        "--tap",
        "scale3",
        "--tap",
        "scale4",
        "-o",
        folder / "{tap}.safetensors",
        "--plot",
        *QUICK,
    )
    assert done.exit_code == 0, done.output
    return folder


def test_score_writes_profiles_and_plots(profiles):
    assert {path.name for path in profiles.iterdir()} == {
        f"{tap}{suffix}"
        for tap in ("scale3", "scale4")
        for suffix in (".safetensors", ".tuning.png", ".scores.png")
    }
    profile = Profile.load(profiles / "scale3.safetensors")
    assert (profile.backbone, profile.tap, profile.stimulus.frequencies) == ("gabor", "scale3", 6)


def test_chosen_channels_are_drawn(tmp_path):
    files = {}
    for channels in ("0,5", "0,5,7"):
        path = tmp_path / f"{channels}.safetensors"
        arguments = [
            "score",
            "gabor",
            "--tap",
            "scale5",
            "-o",
            path,
            "--plot",
            "--channels",
            channels,
            *QUICK,
        ]
        assert invoke(*arguments).exit_code == 0
        with Image.open(path.with_suffix(".tuning.png")) as plot:
            files[channels] = plot.height
    # A row of panels each.
    assert files["0,5"] < files["0,5,7"]


def test_several_taps_need_several_names(tmp_path):
    with pytest.raises(ValueError, match=r"output: expected \{tap\} in the name"):
        invoke("score", "gabor", "-o", tmp_path / "profile.safetensors", *QUICK)


@pytest.mark.parametrize("metric", ["distance", "lpips", "contextual"])
def test_export_of_selected_weighted_channels(profiles, tmp_path, metric):
    path = tmp_path / "metric.onnx"
    done = invoke(
        "export", profiles / "scale4.safetensors", "--top", "10", "--weights", "pe", "--metric", metric,
        "--map", "--threshold", "0.2", "-o", path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    about = json.loads(invoke("describe", path, "--json").output)["metadata"]
    chosen = Profile.load(profiles / "scale4.safetensors").top(10)
    assert about["threshold"] == 0.2
    assert str(len(chosen)) in json.dumps(about["backbone"])


def test_export_of_several_profiles(profiles, tmp_path):
    path = tmp_path / "metric.onnx"
    files = [profiles / f"scale{n}.safetensors" for n in (3, 4)]
    assert invoke("export", *files, "--top", "25", "-o", path, "--no-verify").exit_code == 0
    assert path.is_file()


def test_export_of_listed_channels(profiles, tmp_path):
    path, source = tmp_path / "metric.onnx", profiles / "scale4.safetensors"
    assert invoke("export", source, "--channels", "7,0,2", "-o", path, "--no-verify").exit_code == 0
    about = json.loads(invoke("describe", path, "--json").output)["metadata"]
    assert about["backbone"]["taps"]["scale4"]["channels"]["indices"] == [0, 2, 7]
    with pytest.raises(ValueError, match="channels: expected numbers separated by commas, got '1;2'"):
        invoke("export", source, "--channels", "1;2", "-o", path)


def test_selections_need_a_profile_and_exclude_each_other(profiles, tmp_path):
    path = tmp_path / "metric.onnx"
    with pytest.raises(ValueError, match="sources: expected a profile for a selection"):
        invoke("export", "gabor", "--top", "10", "-o", path)
    with pytest.raises(ValueError, match="tap: a profile names its own tap"):
        invoke("export", profiles / "scale3.safetensors", "--tap", "scale3", "-o", path)
    with pytest.raises(ValueError, match="sources: expected profiles of different taps"):
        invoke("export", profiles / "scale3.safetensors", profiles / "scale3.safetensors", "-o", path)
    with pytest.raises(ValueError, match="exclude each other"):
        invoke("export", "x.safetensors", "--top", "10", "--bottom", "10", "-o", path)
    assert not path.exists()


def test_errors_are_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "alexnet-of-nobody", "-o", "metric.onnx"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("Error: ")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("command", ["taps", "score", "export", "describe", "gate", "demo"])
def test_every_command_has_help_with_an_example(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert f"pe-runtime {command}" in done.output.split("Options:")[0].split("Usage:")[1].split("\n", 1)[1]


def test_importing_the_package_imports_neither_torch_nor_torchvision():
    names = "pe_runtime, pe_runtime.cli, pe_runtime.profiles, pe_runtime.gate"
    code = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
