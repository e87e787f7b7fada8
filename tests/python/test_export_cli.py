"""`pe-runtime export`: its options reach the writers."""

import json

import onnx
import pytest
import torch

from pe_runtime.cli.export import command as export_command

pytestmark = pytest.mark.usefixtures("one_thread")


def block_rows(path):
    tensors = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    return onnx.numpy_helper.to_array(tensors["block_rows"]).tolist()


def test_onnx_options(run_command, tmp_path):
    arguments = ["export", "gabor", "--tap", "scale1", "--metric", "contextual", "--map", "--no-verify"]
    arguments += ["--verdict", "--threshold", "0.5", "--block-rows", "9", "--opset", "19"]
    code, out, err = run_command(*arguments, "-o", tmp_path / "standard.onnx")
    assert code == 0, err
    assert "contextual on gabor, scale1" in out
    assert block_rows(tmp_path / "standard.onnx") == [9]
    described = json.loads(run_command("describe", tmp_path / "standard.onnx", "--json")[1])
    assert described["opsets"] == {"ai.onnx": 19}
    assert described["outputs"]["verdict"] == {"type": "bool", "shape": ["batch"]}
    assert described["metadata"]["fused"] is False
    code, _, err = run_command(*arguments, "--fused", "-o", tmp_path / "fused.onnx")
    assert code == 0, err
    described = json.loads(run_command("describe", tmp_path / "fused.onnx", "--json")[1])
    assert described["opsets"] == {"ai.onnx": 19, "pe_runtime": 1}
    assert described["metadata"]["fused"] is True


def test_torch_files(run_command, tmp_path):
    arguments = ["export", "gabor", "--tap", "scale1", "--no-fused", "--precision", "float16"]
    code, _, err = run_command(*arguments, "-o", tmp_path / "metric.pt")
    assert code == 0, err
    about = json.loads(run_command("describe", tmp_path / "metric.pt", "--json")[1])["metadata"]
    assert (about["fused"], about["precision"]) == (False, "float16")
    assert torch.jit.load(tmp_path / "metric.pt")(*[torch.rand(1, 3, 20, 20)] * 2)[0].item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compiled", "-o", "m.pt"], "compiled: not an option of .pt files"),
        (["--block-rows", "3", "-o", "m.pt2"], "block_rows: not an option of .pt2 files"),
        (["--verdict", "-o", "m.onnx"], "threshold: expected a number for the verdict"),
        (["--precision", "int8", "-o", "m.onnx"], "calibration: expected photographs"),
        (["-o", "m.txt"], "path: expected a name that ends in .onnx, .pt or .pt2"),
    ],
)
def test_bad_options_end_with_one_line(run_command, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command("export", "gabor", "--tap", "scale1", *options)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_command_is_a_plain_command():
    """Subcommands for servers are a group of their own, for which this is the default."""
    assert export_command.name == "export"
    assert not hasattr(export_command, "commands")
