"""The operators in torch.compile, torch.export, torch.func, TorchScript, and a C++ program without Python."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.export import Dim

import pe_runtime as pe
from pe_runtime import ops
from pe_runtime.functional import contextual_loss, feature_distance, lpips_distance

assert ops.problem() is None, ops.problem()
ROOT = Path(__file__).resolve().parents[2]
# TorchScript says at each call that it is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning"
)


def features(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Losses(torch.nn.Module):
    """Every function, with constants of all kinds."""

    def __init__(self, kernels="native"):
        super().__init__()
        self.kernels = kernels
        self.register_buffer("linear", torch.linspace(0.5, 1.5, 8))

    def forward(self, source, target):
        channels, weights = [1, 6, 3], [0.5, 1.0, 2.0]
        options = {"kernels": self.kernels, "reduction": "none"}
        return (
            contextual_loss(source, target, channels, weights, 0.3, symmetric=True, **options)
            + feature_distance(source, target, channels, weights, **options)
            + lpips_distance(source, target, linear=self.linear, **options)
        )


def names_of(graph):
    targets = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    return {target for target in targets if "pe_runtime" in target}


def check_training(call, height, width):
    source, target = features(2, 8, height, width), features(2, 8, height, width, seed=1)
    results = []
    for function in (call, Losses("reference")):
        leaf = source.clone().requires_grad_()
        value = function(leaf, target)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_as_one_graph_with_dynamic_sizes(backend):
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(names_of(graph.graph))
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(Losses(), fullgraph=True, dynamic=True, backend=count)
    check_training(compiled, 6, 5)
    # More than one where a float setting turned out to be a constant.
    compilations = len(graphs)
    for size in ((9, 7), (4, 12)):
        check_training(compiled, *size)
    assert len(graphs) == compilations
    assert graphs[-1] == {"pe_runtime.contextual", "pe_runtime.channel_distance"}


def test_compiled_by_inductor():
    torch._dynamo.reset()
    compiled = torch.compile(Losses(), fullgraph=True, dynamic=True)
    for size in ((6, 5), (9, 7)):
        check_training(compiled, *size)


def test_compiled_module_of_images():
    torch._dynamo.reset()
    metric = pe.ContextualLoss(pe.Backbone("squeezenet1_1", ["fire3"], "random"), kernels="native")
    compiled = torch.compile(metric, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((40, 44), (48, 36)):
        images = features(2, 3, *size).requires_grad_(), features(2, 3, *size, seed=1)
        value = compiled(*images)
        value.backward()
        torch.testing.assert_close(value, metric(*images))
        assert images[0].grad.any()


def test_compiled_bandwidth_may_change():
    torch._dynamo.reset()
    pair = features(1, 4, 5, 5), features(1, 4, 5, 5, seed=1)
    call = lambda a, b, h: contextual_loss(a, b, bandwidth=h, kernels="native")  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for bandwidth in (0.3, 0.4, 0.5):
        torch.testing.assert_close(compiled(*pair, bandwidth), call(*pair, bandwidth))


@pytest.mark.parametrize("strict", [True, False])
def test_exported_with_dynamic_sizes(strict, tmp_path):
    dynamic = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    pair = features(2, 8, 6, 5), features(2, 8, 6, 5, seed=1)
    program = torch.export.export(Losses(), pair, dynamic_shapes=(dynamic, dynamic), strict=strict)
    assert names_of(program.graph) == {"pe_runtime.contextual.default", "pe_runtime.channel_distance.default"}
    torch.export.save(program, tmp_path / "losses.pt2")
    module = torch.export.load(tmp_path / "losses.pt2").module()
    other = features(3, 8, 9, 4), features(3, 8, 9, 4, seed=1)
    torch.testing.assert_close(module(*other), Losses()(*other))


def test_vmap_over_the_operators_and_gradients_by_the_definition():
    source, target = features(3, 1, 8, 4, 5), features(3, 1, 8, 4, 5, seed=1)
    each = torch.func.vmap(lambda x, y: torch.ops.pe_runtime.contextual(x, y)[0])(source, target)
    together = torch.ops.pe_runtime.contextual(source.flatten(0, 1), target.flatten(0, 1))[0]
    assert torch.equal(each.flatten(), together)
    gradient = torch.func.grad(lambda x: contextual_loss(x, target[0]))(source[0])
    leaf = source[0].clone().requires_grad_()
    contextual_loss(leaf, target[0], kernels="native").backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-6)


class Scripted(torch.nn.Module):
    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = torch.ops.pe_runtime.contextual(source, target, bandwidth=0.3, form="one_minus")[0]
        return loss + torch.ops.pe_runtime.channel_distance(source, target, form="unit")[0]


def saved_and_loaded(module, path):
    torch.jit.save(module, path)
    return torch.jit.load(path)


def test_scripted(tmp_path):
    module = saved_and_loaded(torch.jit.script(Scripted()), tmp_path / "scripted.pt")
    for size in ((4, 5), (6, 3)):
        source, target = features(2, 8, *size).requires_grad_(), features(2, 8, *size, seed=1)
        value = module(source, target)
        torch.testing.assert_close(value, Scripted()(source, target))
        value.sum().backward()
        assert source.grad.any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced(tmp_path):
    pair = features(2, 8, 6, 5), features(2, 8, 6, 5, seed=1)
    module = saved_and_loaded(torch.jit.trace(Losses(), pair), tmp_path / "traced.pt")
    assert "pe_runtime::contextual" in str(module.graph)
    for size in ((6, 5), (9, 7)):
        check_training(module, *size)


def test_saved_files_need_only_the_library(tmp_path):
    """A process without the package's Python code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Scripted()), tmp_path / "scripted.pt")
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]); module = torch.jit.load(sys.argv[2]);"
        "print(module(torch.ones(1, 8, 3, 3), torch.ones(1, 8, 3, 3)).item());"
        "assert 'pe_runtime' not in sys.modules"
    )
    library = Path(ops.__file__).parent / "libpe_runtime_torch.so"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, library, tmp_path / "scripted.pt"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(1 - 1 / 9)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """tests/cpp/torch_program.cpp, built against this interpreter's torch but not against Python."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    torch_root, library = Path(torch.__file__).parent, Path(ops.__file__).parent / "libpe_runtime_torch.so"
    path = tmp_path_factory.mktemp("cpp") / "torch_program"
    run = subprocess.run(
        [
            *(compiler, "-std=c++20", "-O0", ROOT / "tests" / "cpp" / "torch_program.cpp", "-o", path),
            *(f"-I{ROOT / 'csrc' / 'torch'}", f"-isystem{torch_root / 'include'}"),
            f"-isystem{torch_root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
            *("-Wl,--no-as-needed", library, f"-L{torch_root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"),
            *(f"-Wl,-rpath,{torch_root / 'lib'}", f"-Wl,-rpath,{library.parent}"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    return path


def test_cpp_program_without_python(program, tmp_path):
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "libpe_runtime_torch.so" in linked
    assert "libpython" not in linked
    assert "torch_python" not in linked
    torch.jit.save(torch.jit.script(Scripted()), tmp_path / "scripted.pt")
    run = subprocess.run(
        [program, tmp_path / "scripted.pt", "5", "7"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "autograd kernel was not registered" not in run.stderr

    ramp = torch.arange(2 * 8 * 5 * 7).reshape(2, 8, 5, 7)
    source, target = torch.sin(0.37 * ramp).requires_grad_(), torch.cos(0.11 * ramp)
    expected = [Scripted()(source, target)]
    loss = contextual_loss(
        source, target, [1, 6, 3], [0.5, 1.0, 2.0], 0.3, reduction="none", kernels="native"
    )
    expected += [loss, *torch.autograd.grad(loss.sum(), source)]
    distance, difference = torch.ops.pe_runtime.channel_distance(
        source, target, None, None, torch.linspace(0, 1, 8), "unit"
    )
    expected += [distance, *torch.autograd.grad(distance.sum() + difference.sum(), source)]
    got = torch.tensor([float(line) for line in run.stdout.split()])
    torch.testing.assert_close(got, torch.cat([values.detach().flatten() for values in expected]))
