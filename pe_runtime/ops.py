"""The native operators of PyTorch, `torch.ops.pe_runtime`: loading them, and when they are used.

The libraries, one for the CPU and one for CUDA, lie beside this file and are loaded when something first
needs them. What C++ cannot say through torch's stable interface is registered here: shapes for compilers and
exporters, and gradients.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pe_runtime.checks import check_choice, is_tracing

KERNELS = ("auto", "native", "reference")
VARIABLE = "PE_RUNTIME_KERNELS"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

DEVICES = ("cpu", "cuda")
ROW_SUMS = ("cpu",)
"""Devices whose kernels keep sums of forward for backward."""
OPT_IN = ("cuda",)
"""Devices whose kernels "auto" does not take: no hardware has run them yet."""
LEAST_CAPABILITY = (8, 0)
"""Of a CUDA device: the kernels use what came with Ampere."""

_LIBRARY = Path(__file__).parent / "libpe_runtime_torch.so"
_CUDA_LIBRARY = Path(__file__).parent / "libpe_runtime_torch_cuda.so"


def available(device: str = "cpu") -> bool:
    """Whether the operators are there for "cpu" or "cuda". Loads them."""
    return problem(device) is None


def problem(device: str = "cpu") -> str | None:
    """Why the operators are not there for "cpu" or "cuda", None if they are. Loads them.

    Whether a CUDA device itself can run them is not asked: see `use_native`.
    """
    return _problem(device)


@functools.cache
def _problem(device: str) -> str | None:
    if device == "cuda":
        return _problem("cpu") or _cuda_problem()
    missing = _load(_LIBRARY, f"pe_runtime was installed without its native library, {_LIBRARY}")
    if missing is None:
        _register()
    return missing


def _cuda_problem() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return _load(
        _CUDA_LIBRARY, f"pe_runtime was built without a CUDA toolkit, so without its library {_CUDA_LIBRARY}"
    )


def _load(library: Path, absent: str) -> str | None:
    if not library.exists():
        return absent
    try:
        torch.ops.load_library(library)
    except OSError as error:
        # torch's own error only names the file again.
        return f"{library} cannot be loaded: {error.__cause__ or error}"
    return None


# A compiler would trace into the loading of the library; its answer does not change in a process.
@torch.compiler.assume_constant_result
def use_native(kernels: str, obstacle: str | None, device: torch.device) -> bool:
    """Whether a call goes to the operators or to the definitions of `pe_runtime.reference`.

    Args:
        kernels: "native", "reference", or "auto": what the environment variable PE_RUNTIME_KERNELS says,
            and without it, or if it too says "auto", operators wherever they can, except on the devices
            of `OPT_IN`.
        obstacle: why the operators cannot do what the call asks for; None: they can.
        device: where the features are.

    Raises:
        ValueError: another value of the variable.
        RuntimeError: "native" where the operators cannot.
    """
    forced_by = "kernels"
    if kernels == "auto":
        kernels, forced_by = os.environ.get(VARIABLE, "auto"), VARIABLE
        check_choice(kernels, VARIABLE, KERNELS)
    if kernels == "reference":
        return False
    missing = problem("cuda" if device.type == "cuda" else "cpu")
    obstacle = obstacle or _too_old(device)
    if kernels == "native":
        if missing or obstacle:
            raise RuntimeError(f"{forced_by}: 'native' is not possible: {missing or obstacle}")
        return True
    if missing:
        _warn_once(missing)
    # A file for another runtime has no use for operators that only torch has.
    if missing or obstacle or torch.onnx.is_in_onnx_export():
        return False
    if device.type in OPT_IN:
        _say_opt_in()
        return False
    return True


@functools.cache
def _too_old(device: torch.device) -> str | None:
    # Without a GPU, a tensor "on" one is a compiler's or an exporter's stand-in.
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= LEAST_CAPABILITY:
        return None
    needed, got = (".".join(map(str, version)) for version in (LEAST_CAPABILITY, capability))
    return f"the kernels need a GPU of compute capability {needed} or newer, and {device} has {got}"


def on_cpu(constants: Tensor) -> Tensor:
    """Weights where the operators take them, from wherever a module's buffers are.

    Copies from a device each time, which waits for what the device has to do: the version counter, all that
    can be looked at without waiting, misses edits through `.data`. While a CUDA graph is captured no copy can
    be made, and the last one serves: a graph has its weights as constants in any case.

    Raises:
        RuntimeError: a graph is captured, and the weights were not used before.
    """
    if constants.device.type == "cpu" or is_tracing():
        return constants.cpu()
    if _is_capturing():
        if constants not in _COPIES:
            raise RuntimeError(
                "weights: expected on the CPU, or used in a call before, while a CUDA graph is captured"
            )
        return _COPIES[constants]
    _COPIES[constants] = constants.detach().cpu()
    return _COPIES[constants]


_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@functools.cache
def _warn_once(missing: str) -> None:
    warnings.warn(
        f"pe_runtime computes without its native kernels, slower and with more memory: {missing}",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _say_opt_in() -> None:
    warnings.warn(
        "pe_runtime computes by its definitions on this GPU, slower and with more memory than by its CUDA "
        f"kernels, which no GPU has run yet; kernels='native' (or {VARIABLE}=native) chooses these",
        UserWarning,
        stacklevel=2,
    )


def _register() -> None:
    fakes: dict[str, Callable[..., Any]] = {
        "contextual": _fake_contextual,
        "contextual_backward": _fake_contextual_backward,
        "channel_distance": _fake_channel_distance,
        "channel_distance_backward": _fake_channel_distance_backward,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"pe_runtime::{name}", fake)
    torch.library.register_autograd(
        "pe_runtime::contextual", _contextual_gradient, setup_context=_save_contextual
    )
    torch.library.register_autograd(
        "pe_runtime::channel_distance", _channel_distance_gradient, setup_context=_save_channel_distance
    )
    for name in ("contextual_backward", "channel_distance_backward"):
        torch.library.register_autograd(f"pe_runtime::{name}", _no_second_derivative)


def _result_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _positions_like(features: Tensor, dtype: torch.dtype) -> Tensor:
    batch, _, height, width = features.shape
    return features.new_empty((batch, 1, height, width), dtype=dtype)


def _gradient_like(features: Tensor, needed: bool) -> Tensor:
    return torch.empty_like(features) if needed else features.new_empty(0)


def _fake_contextual(
    source: Tensor,
    target: Tensor,
    channels: Tensor | None = None,
    *settings: Any,
    row_sums: bool = False,
    **others: Any,
) -> tuple[Tensor, ...]:
    dtype = _result_dtype(source)
    batch, available, height, width = source.shape
    count = available if channels is None else channels.shape[0]
    if len(settings) > 8:
        row_sums = settings[8]
    return (
        source.new_empty(source.shape[0], dtype=dtype),
        _positions_like(target, dtype),
        _positions_like(target, torch.int32),
        _positions_like(source, dtype),
        _positions_like(source, torch.int32),
        _positions_like(source, dtype),
        source.new_empty((batch, height, width, count + 1) if row_sums else (0,), dtype=dtype),
    )


def _fake_contextual_backward(
    loss_gradient: Tensor | None,
    log_similarity_gradient: Tensor | None,
    source: Tensor,
    target: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    source_needed, target_needed = others[-2:]
    return _gradient_like(source, source_needed), _gradient_like(target, target_needed)


def _fake_channel_distance(
    first: Tensor, second: Tensor, *constants: Any, **settings: Any
) -> tuple[Tensor, Tensor]:
    dtype = _result_dtype(first)
    return first.new_empty(first.shape[0], dtype=dtype), _positions_like(first, dtype)


def _fake_channel_distance_backward(
    distance_gradient: Tensor | None, map_gradient: Tensor | None, first: Tensor, second: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    first_needed, second_needed = others[-2:]
    return _gradient_like(first, first_needed), _gradient_like(second, second_needed)


def _check_constants(**constants: Tensor | None) -> None:
    for name, values in constants.items():
        if values is not None and values.requires_grad:
            raise RuntimeError(f"{name}: expected constants, got a tensor that requires a gradient")


def _save_contextual(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    source, target, channels, weights, *settings = inputs
    _check_constants(weights=weights)
    # Row statistics are there for the gradient, which goes through the loss and the similarity.
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(source, target, channels, weights, *output[1:])
    *numbers_and_names, _row_sums, matmul_precision = settings
    ctx.settings = (*numbers_and_names, matmul_precision)


def _contextual_gradient(
    ctx: Any, loss_gradient: Tensor | None, log_similarity_gradient: Tensor | None, *others: None
) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:2]
    source_gradient, target_gradient = torch.ops.pe_runtime.contextual_backward(
        loss_gradient, log_similarity_gradient, *ctx.saved_tensors, *ctx.settings, *needed
    )
    return source_gradient if needed[0] else None, target_gradient if needed[1] else None, *[None] * 11


def _save_channel_distance(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    first, second, channels, weights, linear, form = inputs
    _check_constants(weights=weights, linear=linear)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(first, second, channels, weights, linear)
    ctx.form = form


def _channel_distance_gradient(
    ctx: Any, distance_gradient: Tensor | None, map_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:2]
    first_gradient, second_gradient = torch.ops.pe_runtime.channel_distance_backward(
        distance_gradient, map_gradient, *ctx.saved_tensors, ctx.form, *needed
    )
    return first_gradient if needed[0] else None, second_gradient if needed[1] else None, *[None] * 4


def _no_second_derivative(ctx: Any, *gradients: Tensor | None) -> None:
    raise RuntimeError(
        "the operators of pe_runtime have no second derivative; pass kernels='reference' for one"
    )
