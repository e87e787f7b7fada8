"""What measures and checks on a GPU: what can be known of it without one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pe_runtime.functional import contextual_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import cuda_channel_distance
import cuda_contextual
import cuda_timing
from contextual_exact import exact
from contextual_peers import eager, pair, pytorch_port

ROOT = Path(__file__).resolve().parents[2]
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def started(*command):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHON": sys.executable},
    )


@without_gpu
@pytest.mark.parametrize("name", ["cuda_contextual.py", "cuda_channel_distance.py", "matmul_precision.py"])
def test_benchmarks_say_that_there_is_no_gpu(name):
    done = started(sys.executable, ROOT / "bench" / name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nothing measured: torch finds no CUDA GPU on this machine\n"


@without_gpu
def test_gpu_check_says_what_it_would_do(tmp_path):
    done = started(ROOT / "scripts" / "gpu_check.sh", tmp_path / "output")
    assert done.returncode == 2
    assert "bench_contextual" in done.stdout
    assert done.stderr == "Nothing was run: torch finds no CUDA GPU on this machine\n"
    assert not list(tmp_path.iterdir())
    done = started(ROOT / "scripts" / "gpu_check.sh", "--stages", "build,tests")
    assert done.returncode == 2
    assert "--stages: expected some of look build" in done.stderr


def test_gpu_check_takes_less_than_ten_minutes():
    script = (ROOT / "scripts" / "gpu_check.sh").read_text()
    stages = re.findall(r"^([a-z_]+) +(\d+)(\+?) +", script, re.MULTILINE)
    assert [f"stage_{name}()" in script for name, _, _ in stages] == [True] * len(stages)
    alone = sum(int(limit) for _, limit, beside in stages if not beside)
    assert alone + max(int(limit) for _, limit, beside in stages if beside) < 600


@pytest.mark.parametrize(("over", "eps_log"), [((2, 3), 0.0), ((0, 2, 3), 1e-5)])
def test_truth_of_the_benchmarks_is_the_definition(over, eps_log):
    source, target = (features.double() for features in pair(49, 6, 3))
    loss, gradient = exact(source, target, over, eps_log=eps_log, block=10)
    leaf = source.requires_grad_()
    parity = {"parity": "pytorch-port"} if eps_log else {}
    expected = contextual_loss(leaf, target, kernels="reference", **parity)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0], rtol=1e-9, atol=1e-12)
    peer = pytorch_port if eps_log else eager
    torch.testing.assert_close(peer(source, target).detach(), loss, rtol=1e-9, atol=0)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The benchmarks with the CPU in the place of the GPU; what they print means nothing."""

    def once(run, inputs, runs):
        run(inputs[-1])
        return 1e-3

    def allocated(run):
        run()
        return 1000

    ceilings = dict.fromkeys(("float16", "bfloat16", "tf32", "float32", "float64", "copy", "exp2"), 1e12)
    for name, value in {
        "DEVICE": "cpu",
        "require_gpu": lambda: None,
        "gpu_name": lambda: "none",
        "median_time": once,
        "peak": allocated,
        "copy_bandwidth": lambda: 1e12,
    }.items():
        monkeypatch.setattr(cuda_timing, name, value)
    monkeypatch.setattr(cuda_contextual, "measure_ceilings", lambda: ceilings)
    monkeypatch.setattr(cuda_contextual, "LARGEST_COMPARED", 100)
    monkeypatch.setattr(cuda_channel_distance, "MAPS", ((5, 8),))
    monkeypatch.setattr(cuda_channel_distance, "BATCH", 2)


def test_contextual_benchmark_from_start_to_end(on_the_cpu, tmp_path):
    names = ("pe_runtime", "eager", "PyTorch port")
    arguments = ["--positions", "64,144", "--channels", "13", "--json", str(tmp_path / "figures.json")]
    arguments += [part for name in names for part in ("--only", name)]
    done = CliRunner().invoke(cuda_contextual.main, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["rows"]) == 2 * 2 * (len(names) + 1)
    exact = [row for row in figures["rows"] if row["backward"] and row["N"] == 64]
    for row in exact:
        assert row["loss_error"] < 1e-4
        assert row["gradient_error"] < 1e-2
    assert "N = 144, B = 16, C = 13, high: runs" in [row["what"] for row in figures["targets"]]
    assert torch.get_float32_matmul_precision() == "highest"


def test_channel_distance_benchmark_from_start_to_end(on_the_cpu, tmp_path):
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(cuda_channel_distance.main, ["--json", str(path)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(path.read_text())["rows"]) == 2 * 2 * 2 * 2
    assert "16 cases reach 80% of the copy's bandwidth" in done.output


def rows(seconds, peaks, size=4096, channels=128):
    """Of forward and backward together, as the benchmark has them."""
    case = {"N": size, "B": 16, "C": channels, "precision": "highest", "backward": True}
    return [
        {**case, "name": name, "seconds": seconds[name], "peak_bytes": peaks[name], "loss_error": 1e-6}
        for name in seconds
    ]


def test_targets_are_judged():
    peaks = {"pe_runtime": 4, "eager": 100, "torch.compile": 50}
    good = rows({"pe_runtime": 1.0, "eager": 7.5, "torch.compile": 3.0}, peaks)
    verdicts = {row["what"].split(": ")[1]: row["verdict"] for row in cuda_contextual.judge(good)}
    assert verdicts == {
        "times as fast as eager": "met, and the aim",
        "times as fast as torch.compile": "met",
        "peak memory of eager's": "met",
        "error of the loss": "met",
    }
    bad = rows({"pe_runtime": 1.0, "eager": 14.0}, {"pe_runtime": 6, "eager": 100}, channels=13)
    assert [row["verdict"] for row in cuda_contextual.judge(bad)] == ["MISSED", "MISSED", "met"]
    large = rows({"pe_runtime": 1.0}, {"pe_runtime": 4}, size=262144)
    assert [row["got"] for row in cuda_contextual.judge(large)] == ["1000 ms"]


def test_limit_on_paper():
    """N = 4096, B = 16, C = 128 at 790 TFLOP/s: three products of 69 GFLOP a pass, 0.26 ms."""
    ceilings = {"float16": 790e12, "exp2": 3.3e12}
    (row,) = rows({"pe_runtime": 1.0}, {"pe_runtime": 4})
    forward = cuda_contextual.limit({**row, "backward": False}, ceilings)
    assert forward == pytest.approx(3 * 0.26e-3 + 0.08e-3, rel=0.01)
    assert cuda_contextual.limit(row, ceilings) - forward == pytest.approx(2 * 0.26e-3, rel=0.01)


def test_tables_have_a_line_for_each_case():
    ceilings = {"float16": 1e15, "exp2": 1e12}
    both = rows({"pe_runtime": 1.0, "eager": 7.5}, {"pe_runtime": 4, "eager": 100})
    both += [{**both[0], "backward": False}, {**both[1], "backward": False, "failed": "no"}]
    del both[-1]["seconds"]
    for row in both[:2]:
        row["gradient_error"] = 1e-5
    names = ["pe_runtime", "eager"]
    assert cuda_contextual.speed_table(both, names, ceilings).row_count == 2
    assert cuda_contextual.error_table(both, names).row_count == 1
