"""Files for torch: TorchScript, torch.export, AOTInductor; and what is folded into weights."""

import copy
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import pe_runtime as pe
from pe_runtime import ops
from pe_runtime.exporters import export
from pe_runtime.exporters.graph import Interface, ScoreGraph

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")

METRICS = {
    "distance": lambda: pe.FeatureDistance(squeeze(), tap_weights={"relu1": 0.25, "fire3": 2.0}),
    "lpips": lambda: pe.LPIPS(squeeze(), linear={"relu1": torch.arange(64) / 64, "fire3": [1.0, 0.0, 2.0]}),
    "contextual": lambda: pe.ContextualLoss(squeeze(), bandwidth=2.0, symmetric=True),
    "contextual l1": lambda: pe.ContextualLoss(squeeze(), distance="l1"),
    "gabor": lambda: pe.FeatureDistance(pe.Backbone("gabor", ["scale1", "lowpass"])),
}


def squeeze():
    chosen = pe.ChannelSet([1, 20, 100], [0.5, 1.0, 2.0])
    return pe.Backbone("squeezenet1_1", {"relu1": None, "fire3": chosen}, "random")


def load(path, files=None):
    if path.suffix == ".pt":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises torch.export
            return torch.jit.load(path, _extra_files=files)
    return torch.export.load(path).module()


def check(metric, interface, module, sizes=((1, 40, 53), (3, 64, 48))):
    """Every output of a file against the metric in float64."""
    exact = copy.deepcopy(metric).double()
    exact.kernels = "reference"
    for batch, height, width in sizes:
        pair = interface.example(batch, height, width, seed=batch)
        doubles = [
            images.permute(0, 3, 1, 2).double() / 255 if interface.input == "uint8" else images.double()
            for images in pair
        ]
        true_score, true_map = exact.score_and_map(*doubles)
        with torch.no_grad():
            got = dict(zip(interface.outputs, module(*pair), strict=True))
        assert got["score"].dtype == torch.float32
        torch.testing.assert_close(got["score"].double(), true_score, rtol=1e-4, atol=0)
        if interface.map:
            torch.testing.assert_close(got["map"].double(), true_map, rtol=1e-2, atol=1e-4)
        if interface.verdict:
            assert torch.equal(got["verdict"], got["score"] <= interface.threshold)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Exported files, each written once."""
    files = {}

    def write(name, suffix, **options):
        key = (name, suffix, *sorted(options.items()))
        if key not in files:
            path = tmp_path_factory.mktemp("files") / f"metric{suffix}"
            files[key] = export(METRICS[name](), path, verify=False, **options)
        return files[key]

    return write


# Recording for torch.export takes seconds; tracing does not.
PROGRAMS = ["distance", "contextual", "gabor"]


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".pt") for name in METRICS), *((name, ".pt2") for name in PROGRAMS)]
)
def test_parity(written, name, suffix):
    """With operators, where they are there, and without."""
    metric = METRICS[name]()
    for fused in (None, False):
        # A threshold between the scores.
        scores = metric.score_and_map(*Interface().example(3, 64, 48, seed=3))[0]
        interface = Interface(map=True, verdict=True, threshold=round(scores.median().item(), 4))
        options = {"map": True, "verdict": True, "threshold": interface.threshold, "fused": fused}
        check(metric, interface, load(written(name, suffix, **options)))
        if suffix == ".pt2" and name != "contextual":
            return


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_uint8_and_verification(tmp_path, suffix):
    metric = METRICS["distance"]()
    path = export(metric, tmp_path / f"metric{suffix}", input="uint8")
    check(metric, Interface("uint8"), load(path))


LOAD_ALONE = """
import sys, torch
class NoPackage:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("pe_runtime", "torchvision"), name
sys.meta_path.insert(0, NoPackage())
for name in sys.argv[1:]:
    if name.endswith(".so"):
        torch.ops.load_library(name)
        continue
    module = torch.jit.load(name) if name.endswith(".pt") else torch.export.load(name).module()
    torch.manual_seed(0)
    print(module(torch.rand(1, 3, 40, 53), torch.rand(1, 3, 40, 53))[0].item())
"""


def test_files_load_without_the_package(written, tmp_path):
    """Those without operators alone, the others with the library of operators."""
    options = {"map": True, "verdict": True, "threshold": 0.25}
    files = [written("contextual", suffix, fused=False, **options) for suffix in (".pt", ".pt2")]
    if ops.available():
        files += [ops._LIBRARY]
        files += [written("contextual", suffix, fused=True, **options) for suffix in (".pt", ".pt2")]
    command = [sys.executable, "-W", "ignore", "-c", LOAD_ALONE, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    torch.manual_seed(0)
    pair = torch.rand(1, 3, 40, 53), torch.rand(1, 3, 40, 53)
    score = METRICS["contextual"]().score_and_map(*pair)[0].item()
    printed = [float(line) for line in done.stdout.split()]
    assert printed == [pytest.approx(score, rel=1e-4)] * (len(files) // 2 * 2)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_file_describes_itself_and_nothing_else(written, run_command, suffix):
    path = written("contextual", suffix, map=True, verdict=True, threshold=0.25, fused=False)
    code, out, _ = run_command("describe", path, "--json")
    described = json.loads(out)
    assert code == 0
    assert described["format"] == {".pt": "TorchScript", ".pt2": "torch.export"}[suffix]
    about = described["metadata"]
    assert (about["metric"], about["threshold"], about["fused"]) == ("contextual", 0.25, False)
    assert about["backbone"] == squeeze().describe()
    # What a program in C++ asks torch for.
    if suffix == ".pt":
        files = {"pe_runtime": ""}
        load(path, files)
        assert json.loads(files["pe_runtime"]) == about
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        assert {name.partition("/")[0] for name in archive.namelist()} == {"archive"}
    # Neither stack traces nor paths of the machine that wrote it.
    for trace in (str(ROOT).encode(), b"site-packages", str(path.parent).encode()):
        assert trace not in content


def test_operators_are_used_where_they_are_there(tmp_path, monkeypatch):
    metric = METRICS["distance"]()
    monkeypatch.setattr(ops, "problem", lambda: "there is no library")
    plain = export(metric, tmp_path / "plain.pt", verify=False)
    assert "pe_runtime.channel_distance" not in str(load(plain).inlined_graph).replace("::", ".")
    with pytest.raises(RuntimeError, match="fused: expected the native operators, but there is no library"):
        export(metric, tmp_path / "metric.pt", fused=True)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"fused: .* distance 'l1' has no kernel"):
        export(METRICS["contextual l1"](), tmp_path / "metric.pt2", fused=True)
    if ops.available():
        fused = export(metric, tmp_path / "fused.pt", verify=False)
        assert "pe_runtime::channel_distance" in str(load(fused).inlined_graph)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_package(tmp_path, run_command):
    metric = pe.ContextualLoss(pe.Backbone("gabor", {"scale1": pe.ChannelSet([3, 14])}))
    path = export(
        metric, tmp_path / "metric.pt2", input="uint8", map=True, verdict=True, threshold=0.1, compiled=True
    )
    interface = Interface("uint8", map=True, verdict=True, threshold=0.1)
    check(metric, interface, torch._inductor.aoti_load_package(str(path)), ((1, 9, 11), (3, 16, 12)))
    described = json.loads(run_command("describe", path, "--json")[1])
    assert described["format"] == "AOTInductor"
    assert described["metadata"]["verdict"] is True


def test_bad_options_are_named(tmp_path):
    metric = METRICS["distance"]()
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'float16', got 'int8'"):
        export(metric, tmp_path / "metric.pt", precision="int8")
    with pytest.raises(ValueError, match=r"opset: not an option of \.pt2 files"):
        export(metric, tmp_path / "metric.pt2", opset=18)
    with pytest.raises(ValueError, match=r"compiled: not an option of \.pt files"):
        export(metric, tmp_path / "metric.pt", compiled=True)
    assert not list(tmp_path.iterdir())


BACKBONES = {
    "vgg16": ["relu1_1", "pool1"],
    "alexnet": ["conv1", "relu2"],
    "squeezenet1_0": ["fire2"],
    "shufflenet_v2_x0_5": ["conv1", "stage2_2"],
    "googlenet": ["conv2", "inception3a"],
    "gabor": ["scale1", "scale2"],
}


@pytest.mark.parametrize("input", ["float32", "uint8"])
@pytest.mark.parametrize("name", BACKBONES)
def test_folding_changes_no_score(name, input):
    """Normalisation, batch norms and the range of the pixels are in the weights; with and without padding."""
    weights = "default" if name == "gabor" else "random"
    metric = pe.FeatureDistance(pe.Backbone(name, BACKBONES[name], weights))
    graph = ScoreGraph(metric, Interface(input, map=True))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in graph.modules())
    check(metric, Interface(input, map=True), graph, ((2, 70, 90),))
    # The metric itself is as it was.
    assert all(p.dtype == torch.float32 for p in metric.parameters())
    check(metric, Interface(input, map=True), ScoreGraph(metric, Interface(input, map=True)), ((1, 64, 64),))
