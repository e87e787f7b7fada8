"""The operators on CUDA: what only a GPU can show, and what can be known of them without one."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import pe_runtime as pe
from pe_runtime import ops
from pe_runtime.functional import (
    contextual_and_map,
    contextual_loss,
    contextual_settings,
    feature_distance,
    lpips_distance,
)

LIBRARY = Path(ops.__file__).parent / "libpe_runtime_torch_cuda.so"

needs_library = pytest.mark.skipif(
    not LIBRARY.exists() or torch.version.cuda is None,
    reason="pe_runtime was built without a CUDA toolkit, or torch without CUDA",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def on_gpu(test):
    """Run a test where the kernels can."""
    return needs_library(needs_gpu(test))


def features(*shape, seed=0, device="cuda"):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def smooth_pair(channels, size, noise):
    smooth = F.interpolate(features(1, channels, 8, 8, device="cpu"), size=(size, size), mode="bicubic")
    normal = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    return smooth.cuda(), (smooth + noise * smooth.std() * normal).cuda()


def all_losses(source, target, **options):
    """Every function, with constants of all kinds; samples in a vector."""
    options = {"kernels": "native", "reduction": "none", **options}
    return (
        contextual_loss(source, target, [1, 6, 3], [0.5, 1.0, 2.0], 0.3, symmetric=True, **options)
        + feature_distance(source, target, [1, 6, 3], [0.5, 1.0, 2.0], **options)
        + lpips_distance(source, target, linear=torch.linspace(0.5, 1.5, source.shape[1]), **options)
    )


def step(source, target, **options):
    """Losses and the source's gradient."""
    leaf = source.detach().clone().requires_grad_()
    losses = all_losses(leaf, target, **options)
    return losses.detach(), *torch.autograd.grad(losses.sum(), leaf)


# Without a GPU.


@needs_library
def test_library_loads_without_a_gpu_and_registers_the_operators():
    assert ops.problem("cuda") is None
    for name in ("contextual", "contextual_backward", "channel_distance", "channel_distance_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pe_runtime::{name}", "CUDA")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pe_runtime::{name}", "CPU")


@needs_library
def test_library_needs_no_library_of_cuda():
    """So it also loads into a torch without CUDA, where nothing calls it."""
    tool = shutil.which("readelf")
    if tool is None:
        pytest.skip("readelf: command not found")
    listed = subprocess.run([tool, "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listed)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "cuda" in name or "cudart" in name]


@needs_library
def test_library_has_code_for_every_generation():
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("cuobjdump: command not found")
    command = [tool, "--list-elf", "--list-ptx", LIBRARY]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    binaries = set(re.findall(r"\.sm_(\d+)\w?\.cubin", listed))
    assert binaries
    assert all(int(generation) >= 80 for generation in binaries)
    if len(binaries) == 1:
        pytest.skip("built for one kind of GPU: PE_CUDA_ARCHITECTURES")
    # For those that come later.
    assert re.search(rf"\.sm_{max(binaries, key=int)}\.ptx", listed)


@needs_library
def test_compilers_see_the_operators_on_features_that_are_not_there():
    with FakeTensorMode():
        source = torch.empty(2, 8, 6, 5, device="cuda").requires_grad_()
        loss, similarity = contextual_and_map(
            source, torch.empty(2, 8, 4, 3, device="cuda"), contextual_settings(), kernels="native"
        )
        statistics = torch.ops.pe_runtime.contextual(source, source)
    assert (loss.device.type, loss.shape, similarity.shape) == ("cuda", (2,), (2, 1, 4, 3))
    assert {output.device.type for output in statistics} == {"cuda"}
    # Kernels for CUDA keep none.
    assert statistics[-1].shape == (0,)


def test_missing_library_is_said_once(monkeypatch):
    monkeypatch.setattr(ops, "problem", lambda device: f"nothing for {device}")
    ops._warn_once.cache_clear()
    device = torch.device("cuda", 0)
    with pytest.warns(RuntimeWarning, match="without its native kernels, .*: nothing for cuda"):
        assert not ops.use_native("auto", None, device)
    assert not ops.use_native("auto", None, device)  # another warning would be an error
    with pytest.raises(RuntimeError, match="kernels: 'native' is not possible: nothing for cuda"):
        ops.use_native("native", None, device)
    ops._warn_once.cache_clear()


def test_older_gpus_have_no_kernels(monkeypatch):
    monkeypatch.setattr(ops, "problem", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    ops._too_old.cache_clear()
    device = torch.device("cuda", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ops.use_native("auto", None, device)
    with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or newer, and cuda:0 has 7\.5"):
        ops.use_native("native", None, device)
    ops._too_old.cache_clear()


# With one.


@on_gpu
def test_gpu_agrees_with_the_cpu():
    source, target = features(2, 8, 12, 9), features(2, 8, 12, 9, seed=1)
    got = step(source, target)
    expected = step(source.cpu(), target.cpu())
    torch.testing.assert_close([values.cpu() for values in got], list(expected), rtol=1e-4, atol=1e-6)
    assert all(map(torch.equal, got, step(source, target)))


@on_gpu
@pytest.mark.parametrize("function", [contextual_loss, feature_distance, lpips_distance])
def test_auto_takes_the_definitions_and_says_so(function):
    pair = features(1, 4, 5, 5), features(1, 4, 5, 5, seed=1)
    ops._say_opt_in.cache_clear()
    with pytest.warns(UserWarning, match="by its definitions on this GPU"):
        got = function(*pair)
    assert torch.equal(got, function(*pair, kernels="reference"))
    assert ops.available("cuda")


@on_gpu
def test_mixed_devices_are_named():
    op, x = torch.ops.pe_runtime, features(2, 8, 4, 4)
    with pytest.raises(RuntimeError, match="target: expected features on cuda:0 as source, got cpu"):
        op.contextual(x, x.cpu())
    with pytest.raises(RuntimeError, match="first: expected features on a CUDA device, got cpu"):
        op.channel_distance(x.cpu(), x)
    with pytest.raises(RuntimeError, match=r"channels: expected int64 on the CPU"):
        op.contextual(x, x, torch.tensor([1, 2]).cuda())
    with pytest.raises(RuntimeError, match="weights: expected a tensor on the CPU"):
        op.contextual(x, x, None, torch.ones(8).cuda())
    loss, *saved = op.contextual(x, x)
    settings = (0.5, "cosine", "sample", 0.0, "log", 1e-5, 0.0, "highest")
    with pytest.raises(RuntimeError, match=r"loss_gradient: .* on cuda:0 .*, got Float on cpu in"):
        op.contextual_backward(loss.cpu(), None, x, x, None, None, *saved, *settings, True, True)
    with pytest.raises(ValueError, match="expected one device, got cuda:0 and cpu"):
        contextual_loss(x, x.cpu())


@on_gpu
def test_weights_on_the_gpu_are_read_each_time():
    x, y = features(1, 8, 4, 4), features(1, 8, 4, 4, seed=1)
    linear = torch.linspace(0.5, 1.5, 8).cuda()
    expected = lpips_distance(x, y, linear=linear.cpu(), kernels="native")
    assert torch.equal(lpips_distance(x, y, linear=linear, kernels="native"), expected)
    linear.mul_(2)
    torch.testing.assert_close(lpips_distance(x, y, linear=linear, kernels="native"), 2 * expected)
    linear.data.mul_(2)
    torch.testing.assert_close(lpips_distance(x, y, linear=linear, kernels="native"), 4 * expected)


@on_gpu
def test_weights_on_the_gpu_in_a_cuda_graph():
    pair = features(1, 8, 4, 4), features(1, 8, 4, 4, seed=1)
    linear = torch.linspace(0.5, 1.5, 8).cuda()
    expected = lpips_distance(*pair, linear=linear, kernels="native")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = lpips_distance(*pair, linear=linear, kernels="native")
    graph.replay()
    torch.testing.assert_close(captured, expected)
    with (
        pytest.raises(RuntimeError, match="weights: expected on the CPU"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        lpips_distance(*pair, linear=linear.clone(), kernels="native")


@on_gpu
def test_kernels_are_ordered_with_the_stream_that_is_current():
    source, target = features(1, 8, 64, 64), features(1, 8, 64, 64, seed=1)
    expected = step(source, target)
    late_source, late_target = torch.zeros_like(source), torch.zeros_like(target)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # a tenth of a second: on another stream kernels would see zeros
        late_source.copy_(source)
        late_target.copy_(target)
        got = step(late_source, late_target)
    stream.synchronize()
    assert all(map(torch.equal, got, expected))


@on_gpu
def test_nothing_waits_for_the_gpu():
    source, target = features(2, 8, 32, 32), features(2, 8, 32, 32, seed=1)
    expected = step(source, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = step(source, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, got, expected))


@on_gpu
def test_captured_in_a_cuda_graph_and_replayed_on_new_inputs():
    source, target = features(2, 8, 20, 24), features(2, 8, 20, 24, seed=1)
    leaf, constant = source.clone().requires_grad_(), target.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warms up, as torch asks
        for _ in range(3):
            torch.autograd.grad(all_losses(leaf, constant).sum(), leaf)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = all_losses(leaf, constant)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    for seed in (0, 5):
        pair = features(2, 8, 20, 24, seed=seed), features(2, 8, 20, 24, seed=seed + 1)
        with torch.no_grad():
            leaf.copy_(pair[0])
            constant.copy_(pair[1])
        graph.replay()
        assert all(map(torch.equal, (losses.detach(), gradient), step(*pair)))


@on_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds no two GPUs")
def test_features_on_another_gpu_than_the_current():
    expected = step(features(2, 8, 9, 9), features(2, 8, 9, 9, seed=1))
    other = features(2, 8, 9, 9, device="cuda:1"), features(2, 8, 9, 9, seed=1, device="cuda:1")
    assert torch.cuda.current_device() == 0
    got = step(*other)
    assert torch.cuda.current_device() == 0
    assert {values.device.index for values in got} == {1}
    assert all(torch.equal(values.cpu(), value.cpu()) for values, value in zip(got, expected, strict=True))
    with pytest.raises(RuntimeError, match="target: expected features on cuda:1 as source, got cuda:0"):
        torch.ops.pe_runtime.contextual(other[0], features(2, 8, 9, 9))


@on_gpu
def test_compiled_as_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(all_losses, fullgraph=True, dynamic=True)
    for size in ((6, 5), (9, 7)):
        pair = features(2, 8, *size), features(2, 8, *size, seed=1)
        leaf = pair[0].clone().requires_grad_()
        value = compiled(leaf, pair[1])
        value.sum().backward()
        torch.testing.assert_close((value.detach(), leaf.grad), step(*pair), rtol=1e-5, atol=1e-6)


@on_gpu
@pytest.mark.parametrize("dtype", ops.DTYPES)
def test_channels_last_is_kept(dtype):
    source, target = features(2, 16, 9, 7).to(dtype), features(2, 16, 9, 7, seed=1).to(dtype)
    planar = step(source, target)
    last = step(*(f.contiguous(memory_format=torch.channels_last) for f in (source, target)))
    assert last[1].is_contiguous(memory_format=torch.channels_last)
    rounding = max(1e-5, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(last, planar, rtol=rounding, atol=rounding)


@on_gpu
def test_memory_of_65536_positions():
    """One matrix of all pairs would be 17 GB."""
    source, target = features(1, 13, 256, 256).requires_grad_(), features(1, 13, 256, 256, seed=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contextual_loss(source, target, kernels="native").backward()
    assert source.grad.isfinite().all()
    assert torch.cuda.max_memory_allocated() - before < 500e6


@on_gpu
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_accuracy_of_both_precisions(noise):
    source, target = smooth_pair(64, 32, noise)
    exact = contextual_loss(source.double(), target.double(), kernels="reference").item()
    highest = contextual_loss(source, target, kernels="native").item()
    assert highest == pytest.approx(exact, rel=1e-5)
    # With rounded products the nearest of near-identical features are no longer told apart.
    high = contextual_loss(source, target, matmul_precision="high", kernels="native").item()
    if noise == 1.0:
        assert high == pytest.approx(exact, rel=1e-2)
    assert abs(high - exact) >= abs(highest - exact)


@on_gpu
def test_modules_on_the_gpu():
    backbone = pe.Backbone("squeezenet1_1", ["relu1", "fire3"], "random").cuda()
    images = features(2, 3, 40, 44), features(2, 3, 40, 44, seed=1)
    linear = {tap: torch.linspace(0, 1, count) for tap, count in backbone.out_channels.items()}
    for build, options in ((pe.FeatureDistance, {}), (pe.LPIPS, {"linear": linear}), (pe.ContextualLoss, {})):
        native, plain = (build(backbone, kernels=name, **options).cuda() for name in ("native", "reference"))
        torch.testing.assert_close(
            native.score_and_map(*images), plain.score_and_map(*images), rtol=1e-3, atol=1e-5
        )
