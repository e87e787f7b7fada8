"""The operator library: who is called when, what torch is told of the operators, and refused input."""

import copy
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import operators
from operators import DEVICE, ROW_SUMS, SETTINGS

import pe_runtime as pe
from pe_runtime import ops
from pe_runtime.functional import contextual_loss, feature_distance, lpips_distance

op = torch.ops.pe_runtime
FUNCTIONS = (contextual_loss, feature_distance, lpips_distance)


def features(*shape, seed=0):
    return operators.features(*shape, seed=seed, dtype=torch.float32)


@pytest.fixture
def pair():
    return features(2, 8, 6, 5), features(2, 8, 6, 5, seed=1)


@pytest.fixture
def called(monkeypatch):
    """Names of the operators that are called, by watching the dispatcher."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "pe_runtime":
                self.names.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    with Watch() as watch:
        yield watch.names


@pytest.fixture
def missing(monkeypatch):
    """As if the library were not there."""
    monkeypatch.setattr(ops, "problem", lambda device: "it is not there")
    ops._warn_once.cache_clear()
    yield
    ops._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("device", "name", "reason"),
    [
        ("cpu", "libpe_runtime_torch.so", "installed without its native library"),
        ("cuda", "libpe_runtime_torch_cuda.so", "built without a CUDA toolkit"),
    ],
)
def test_loading_says_what_is_wrong(monkeypatch, tmp_path, device, name, reason):
    assert ops.available(DEVICE)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    attempt = ops._problem.__wrapped__  # without the memory of the first answer
    monkeypatch.setattr(ops, "_LIBRARY" if device == "cpu" else "_CUDA_LIBRARY", tmp_path / name)
    assert re.search(f"{reason}, .*{tmp_path}", attempt(device))
    (tmp_path / name).write_text("no library")
    assert re.search(f"{name} cannot be loaded: .*(invalid ELF|too short)", attempt(device))


def test_torch_without_cuda_needs_no_library_for_it(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert re.fullmatch("torch .* was built without CUDA", ops._problem.__wrapped__("cuda"))


def test_importing_the_package_loads_neither_torch_nor_the_library():
    code = "import sys, pe_runtime; assert not {'torch', 'pe_runtime.ops'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


BY_DEFAULT = "on CUDA 'auto' takes the definitions, see test_ops_opt_in.py"


@pytest.mark.cpu_kernels(BY_DEFAULT)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_auto_calls_the_operators(called, pair, function):
    function(*pair)
    assert called == ["contextual" if function is contextual_loss else "channel_distance"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_forced_by_argument_and_by_variable(called, pair, function, monkeypatch):
    function(*pair, kernels="reference")
    monkeypatch.setenv("PE_RUNTIME_KERNELS", "reference")
    function(*pair)
    assert called == []
    function(*pair, kernels="native")  # the argument wins
    monkeypatch.setenv("PE_RUNTIME_KERNELS", "native")
    function(*pair)
    assert len(called) == 2
    function(*pair, kernels="reference")
    assert len(called) == 2


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_choices_are_named(pair, function, monkeypatch):
    with pytest.raises(
        ValueError, match="kernels: expected one of 'auto', 'native', 'reference', got 'fast'"
    ):
        function(*pair, kernels="fast")
    monkeypatch.setenv("PE_RUNTIME_KERNELS", "fast")
    with pytest.raises(ValueError, match="PE_RUNTIME_KERNELS: expected one of 'auto'"):
        function(*pair)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_fallback_warns_once_with_the_reason(pair, function, missing):
    with pytest.warns(RuntimeWarning, match="without its native kernels, .*: it is not there"):
        expected = function(*pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(function(*pair), expected)
        assert torch.equal(function(*pair, kernels="reference"), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_native_is_refused_with_the_reason(pair, function, missing, monkeypatch):
    with pytest.raises(RuntimeError, match="kernels: 'native' is not possible: it is not there"):
        function(*pair, kernels="native")
    monkeypatch.setenv("PE_RUNTIME_KERNELS", "native")
    with pytest.raises(RuntimeError, match="PE_RUNTIME_KERNELS: 'native' is not possible"):
        function(*pair)


def test_what_has_no_kernel_falls_back_without_a_warning(called, pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contextual_loss(*pair, distance="l1")
        contextual_loss(*(f.to("meta") for f in pair))
        lpips_distance(*pair, linear=torch.ones(8, device=DEVICE, requires_grad=True)).sum().backward()
        torch.func.grad(lambda f: contextual_loss(f, pair[1]))(pair[0])
    assert called == []


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda p: contextual_loss(*p, distance="l1", kernels="native"), "distance 'l1' has no kernel"),
        (lambda p: feature_distance(*(f.to("meta") for f in p), kernels="native"), "features are on 'meta'"),
        (
            lambda p: lpips_distance(*p, linear=torch.ones(8, requires_grad=True), kernels="native"),
            "linear requires a gradient",
        ),
        (
            lambda p: torch.func.grad(lambda f: contextual_loss(f, p[1], kernels="native"))(p[0]),
            "torch.func has no gradient",
        ),
    ],
)
def test_native_says_what_has_no_kernel(pair, call, reason):
    with pytest.raises(RuntimeError, match=f"kernels: 'native' is not possible: {reason}"):
        call(pair)


@pytest.mark.parametrize("function", [contextual_loss, feature_distance])
def test_repeated_channels_and_learned_weights(called, pair, function):
    """Selected and weighted by torch; the operator does the rest."""
    channels = [1, 4, 1, 7]
    results = []
    for kernels in ("native", "reference"):
        weights = torch.tensor([0.5, 1.0, 2.0, 1.5], requires_grad=True)
        value = function(*pair, channels=channels, weights=weights, reduction="sum", kernels=kernels)
        value.backward()
        results.append((value.detach(), weights.grad))
    assert called
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_precision_of_weights_for_half_features(pair):
    halves = [f.half() for f in pair]
    weights = torch.linspace(0.3, 1.7, 8)
    for function, name in ((feature_distance, "weights"), (lpips_distance, "linear")):
        got = [function(*halves, **{name: weights}, kernels=kernels) for kernels in ("native", "reference")]
        torch.testing.assert_close(*got, rtol=1e-5, atol=0)


def test_bad_channels_are_named(pair):
    for channels in ([0, 8], [], [-1]):
        with pytest.raises(ValueError, match="channels: expected numbers from 0 to 7"):
            contextual_loss(*pair, channels=channels, kernels="native")
    with pytest.raises(ValueError, match="weights: expected one for each of 2 channels"):
        feature_distance(*pair, channels=[1, 2], weights=[1.0], kernels="native")
    with pytest.raises(ValueError, match="linear: expected one for each of 8 channels"):
        lpips_distance(*pair, linear=[1.0], kernels="native")


def test_autocast_passes_features_as_they_are(pair):
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        inside = [function(*pair, kernels="native") for function in FUNCTIONS]
    outside = [function(*pair, kernels="native") for function in FUNCTIONS]
    assert all(map(torch.equal, inside, outside))
    assert all(value.dtype == torch.float32 for value in inside)


@pytest.fixture(scope="module")
def backbone():
    return pe.Backbone("squeezenet1_1", ["relu1", "fire3"], "random").to(DEVICE)


@pytest.mark.parametrize("build", [pe.FeatureDistance, pe.LPIPS, pe.ContextualLoss])
def test_modules(called, backbone, build):
    images = features(2, 3, 40, 44), features(2, 3, 40, 44, seed=1)
    options = {"linear": None} if build is pe.LPIPS else {}
    native, plain = (build(backbone, kernels=kernels, **options) for kernels in ("native", "reference"))
    assert native.settings() == plain.settings()
    expected = plain.score_and_map(*images)
    assert called == []
    got = native.score_and_map(*images)
    assert len(called) == 2
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="kernels: expected one of"):
        build(backbone, kernels="fast", **options)


@pytest.mark.cpu_kernels(BY_DEFAULT)
@pytest.mark.parametrize("build", [pe.FeatureDistance, pe.ContextualLoss])
def test_modules_call_the_operators_by_default(called, backbone, build):
    build(backbone)(features(2, 3, 40, 44), features(2, 3, 40, 44, seed=1))
    assert len(called) == 2


def test_exported_graphs_have_standard_operators_only(backbone, tmp_path, monkeypatch):
    import onnx

    monkeypatch.setenv("PE_RUNTIME_KERNELS", "native")  # the graph insists on the definitions
    metric = pe.ContextualLoss(backbone, kernels="native")
    path = pe.export(metric, tmp_path / "metric.onnx", verify=False)
    assert metric.kernels == "native"
    assert {node.domain for node in onnx.load(path).graph.node} == {""}


def test_onnx_graphs_of_other_modules_have_standard_operators_too(pair):
    class Loss(torch.nn.Module):
        def forward(self, source, target):
            return contextual_loss(source, target) + feature_distance(source, target).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Loss().eval(), tuple(f.cpu() for f in pair), dynamo=True, verbose=False)
    assert {node.domain for node in program.model_proto.graph.node} == {""}


def test_modules_that_are_copied_and_pickled_keep_their_choice(backbone, tmp_path):
    metric = pe.FeatureDistance(backbone, kernels="reference")
    assert copy.deepcopy(metric).kernels == "reference"
    torch.save(metric, tmp_path / "metric.pt")
    assert torch.load(tmp_path / "metric.pt", weights_only=False).kernels == "reference"


# Constants are on the CPU, whatever the features are on.
CHANNELS, WEIGHTS = torch.tensor([1, 5, 2]), torch.tensor([0.5, 1.0, 2.0])


@pytest.mark.parametrize(
    "prepare",
    [
        lambda f: f,
        lambda f: f.to(memory_format=torch.channels_last),
        lambda f: f.transpose(2, 3),
        lambda f: f[:, :, ::2],
        lambda f: f.half(),
        lambda f: f.double(),
    ],
    ids=["contiguous", "channels last", "transposed", "rows left out", "half", "double"],
)
@pytest.mark.parametrize("needed", [(False, False), (True, False), (True, True)], ids=str)
def test_opcheck(pair, prepare, needed):
    """Schema, autograd registration, shapes, types and strides of the fake kernels, AOT autograd."""
    x, y = (prepare(f).detach().requires_grad_(n) for f, n in zip(pair, needed, strict=True))
    torch.library.opcheck(op.contextual.default, (x, y))
    torch.library.opcheck(
        op.contextual.default, (x, y, CHANNELS), {"row_sums": ROW_SUMS, "matmul_precision": "high"}
    )
    torch.library.opcheck(
        op.contextual.default, (x, y, CHANNELS, WEIGHTS, 0.3, "l2", "none", 0.1, "one_minus")
    )
    torch.library.opcheck(op.channel_distance.default, (x, y, CHANNELS, WEIGHTS))
    torch.library.opcheck(op.channel_distance.default, (x, y, None, None, torch.rand(8), "unit"))
    x, y = x.detach(), y.detach()
    loss, *saved = op.contextual(x, y)
    upstream = torch.ones_like(loss)
    for statistics in (saved, op.contextual(x, y, row_sums=ROW_SUMS)[1:]):
        torch.library.opcheck(
            op.contextual_backward.default,
            (upstream, None, x, y, None, None, *statistics, *SETTINGS, *needed),
        )
    torch.library.opcheck(
        op.contextual_backward.default,
        (None, torch.ones_like(saved[0]), x, y, None, None, *saved, *SETTINGS, *needed),
    )
    torch.library.opcheck(
        op.channel_distance_backward.default, (upstream, None, x, y, CHANNELS, None, None, "squared", *needed)
    )


def test_gradients_that_nobody_asks_for_are_not_computed(pair):
    loss, *saved = op.contextual(*pair)
    arguments = (torch.ones_like(loss), None, *pair, None, None, *saved, *SETTINGS)
    both = op.contextual_backward(*arguments, True, True)
    # Those for CUDA add up in another order where features are not kept beside their halves.
    close = {"rtol": 0, "atol": 0} if ROW_SUMS else {"rtol": 1e-6, "atol": 1e-7}
    for needed in ((True, False), (False, True), (False, False)):
        for gradient, wanted, expected in zip(
            op.contextual_backward(*arguments, *needed), needed, both, strict=True
        ):
            if wanted:
                torch.testing.assert_close(gradient, expected, **close)
            else:
                assert gradient.shape == (0,)
    first = op.channel_distance_backward(
        torch.ones_like(loss), None, *pair, None, None, None, "squared", True, False
    )
    assert first[0].any()
    assert first[1].shape == (0,)


def test_statistics_carry_no_gradient(pair):
    source = pair[0].requires_grad_()
    assert [output.requires_grad for output in op.contextual(source, pair[1])] == [True, True] + 5 * [False]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_second_derivatives_are_refused(pair, function):
    source = pair[0].requires_grad_()
    value = function(source, pair[1], reduction="sum", kernels="native")
    (gradient,) = torch.autograd.grad(value, source, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; pass kernels='reference'"):
        gradient.sum().backward()
    value = function(source, pair[1], reduction="sum", kernels="reference")
    (gradient,) = torch.autograd.grad(value, source, create_graph=True)
    gradient.square().sum().backward()


@pytest.mark.cpu_kernels("they have one precision")
def test_matmul_precision_is_nothing_to_the_cpu(pair):
    results = []
    for precision in ("highest", "high"):
        source = pair[0].clone().requires_grad_()
        loss = contextual_loss(source, pair[1], matmul_precision=precision, kernels="native")
        results.append((loss.detach(), *torch.autograd.grad(loss, source)))
    assert all(map(torch.equal, *results))
    with pytest.raises(ValueError, match="matmul_precision: expected one of 'highest', 'high', got 'medium'"):
        contextual_loss(*pair, matmul_precision="medium")


def test_matmul_precision_is_a_choice_of_the_process_and_not_of_files(backbone, tmp_path):
    files = []
    for precision in ("highest", "high"):
        loss = pe.ContextualLoss(backbone, parity="pytorch-port", matmul_precision=precision)
        assert loss.contextual.matmul_precision == precision
        assert "matmul_precision" not in loss.settings()
        files.append(pe.export(loss, tmp_path / f"{precision}.onnx", verify=False).read_bytes())
        assert loss.contextual.matmul_precision == precision
    assert files[0] == files[1]


def test_features_on_two_devices_are_refused(pair):
    with pytest.raises(ValueError, match=f"expected one device, got {pair[0].device} and meta"):
        contextual_loss(pair[0], pair[1].to("meta"))
