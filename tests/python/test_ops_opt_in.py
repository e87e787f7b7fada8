"""Kernels that no hardware has run yet: on devices of `ops.OPT_IN`, they are used where they are asked for.

On the CPU these tests take it for such a device; with `--operators` its kernels are those for CUDA, emulated.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from operators import DEVICE, features

import pe_runtime as pe
from pe_runtime import ops
from pe_runtime.functional import contextual_loss, feature_distance, lpips_distance

FUNCTIONS = (contextual_loss, feature_distance, lpips_distance)
WORDS = r"by its definitions on this GPU, .*; kernels='native' \(or PE_RUNTIME_KERNELS=native\) chooses these"


@pytest.fixture(autouse=True)
def opt_in(monkeypatch):
    monkeypatch.setattr(ops, "OPT_IN", (DEVICE,))
    ops._say_opt_in.cache_clear()
    yield
    ops._say_opt_in.cache_clear()


@pytest.fixture
def called(monkeypatch):
    """How often operators are called."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.namespace == "pe_runtime"
            return func(*args, **(kwargs or {}))

    with Watch() as watch:
        yield watch


@pytest.fixture
def pair():
    return features(2, 8, 6, 5), features(2, 8, 6, 5, seed=1)


def test_cuda_is_such_a_device():
    code = "from pe_runtime import ops; assert ops.OPT_IN == ('cuda',)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_auto_takes_the_definitions_and_says_so_once(called, pair, function):
    with pytest.warns(UserWarning, match=WORDS):
        got = function(*pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(function(*pair, kernels="reference"), got)
        for again in FUNCTIONS:
            again(*pair)
        assert called.count == 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_native_takes_the_operators_without_a_word(called, pair, function, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(*pair, kernels="native")
        monkeypatch.setenv("PE_RUNTIME_KERNELS", "native")
        function(*pair)
    assert called.count == 2


def test_nothing_is_said_where_there_is_no_choice(pair, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contextual_loss(*pair, distance="l1")
        contextual_loss(*(f.to("meta") for f in pair))
        lpips_distance(*pair, linear=torch.ones(8, device=DEVICE, requires_grad=True))


def test_modules(called):
    images = [features(1, 3, 32, 36, seed=seed, dtype=torch.float32) for seed in (0, 1)]
    backbone = pe.Backbone("gabor", ["scale1"]).to(DEVICE)
    with pytest.warns(UserWarning, match=WORDS):
        got = pe.FeatureDistance(backbone)(*images)
    assert called.count == 0
    torch.testing.assert_close(pe.FeatureDistance(backbone, kernels="native")(*images), got)
    assert called.count == 1


def test_compiled(pair):
    torch._dynamo.reset()
    compiled = torch.compile(contextual_loss, fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match=WORDS):
        got = compiled(*pair)
    assert torch.equal(got, contextual_loss(*pair, kernels="reference"))


class Elsewhere(torch.Tensor):
    """Weights that say they are on a GPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)

    def cpu(self):
        return self.as_subclass(torch.Tensor).clone()


def test_weights_elsewhere_are_read_each_time(pair, monkeypatch):
    linear = torch.linspace(0.5, 1.5, 8).as_subclass(Elsewhere)
    call = lambda: lpips_distance(*pair, linear=linear, kernels="native").as_subclass(torch.Tensor)  # noqa: E731
    expected = call()
    for factor in (2, 4):  # as averages of weights are kept: no version counter sees that
        linear.data.mul_(2)
        torch.testing.assert_close(call(), factor * expected)
    # A graph that is captured has what was read last: nothing can be copied then.
    monkeypatch.setattr(ops, "_is_capturing", lambda: True)
    linear.data.mul_(2)
    torch.testing.assert_close(call(), 4 * expected)
    with pytest.raises(RuntimeError, match="weights: expected on the CPU, or used in a call before"):
        ops.on_cpu(torch.ones(8).as_subclass(Elsewhere))
