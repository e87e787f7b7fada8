"""What a state dict says of a backbone, and whether a network's weights are those it was built with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from pe_runtime.checks import parse_json

# What a network may be moved to; float64 holds the values of float32.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LISTED = 4
_FORMAT = 1


class BuiltWeights:
    """Digests of a network's parameters and buffers, taken when it is built, in every precision.

    Values are compared, and not torch's version counters: an edit through `.data` leaves those alone.
    """

    def __init__(self, network: nn.Module) -> None:
        self._digests = {name: _digests(tensor) for name, tensor in tensors_of(network).items()}

    def changed(self, network: nn.Module, names: Iterable[str]) -> dict[str, str]:
        """Of some tensors of the network those with other values than at first, with their digests now.

        A tensor without values, on the meta device or a compiler's stand-in, has not changed.
        """
        tensors = tensors_of(network)
        result = {}
        for name in sorted(names):
            if tensors[name].device.type == "meta" or isinstance(tensors[name], FakeTensor):
                continue
            tensor = _narrow(tensors[name])
            digest = _digest(tensor)
            if self._digests.get(name, {}).get(tensor.dtype) != digest:
                result[name] = digest
        return result


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, persistent or not, by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def hash_now(built: str, changed: Mapping[str, str]) -> str:
    """The hash `built` if no weights have changed, else a hash of it and of what has changed."""
    if not changed:
        return built
    return hashlib.sha256(json.dumps([built, dict(changed)], sort_keys=True).encode()).hexdigest()


def pack(description: Mapping[str, Any]) -> Tensor:
    """A description as a tensor of bytes, (N,) uint8 on the CPU, which any file of tensors can hold."""
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def unpack(packed: object) -> dict[str, Any]:
    """The inverse of `pack`.

    Raises:
        ValueError: anything else than what `pack` gives.
    """
    if not isinstance(packed, Tensor) or packed.ndim != 1 or packed.device.type == "meta":
        raise ValueError(f"expected the bytes that state_dict() gives, got {_kind(packed)}")
    # Rounded: programs that average checkpoints average these bytes too, in floating point.
    numbers = packed.detach().cpu().to(torch.float64).round().clamp(0, 255).to(torch.uint8)
    description = parse_json(bytes(numbers.tolist()))
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ValueError(f"expected format {_FORMAT} of what state_dict() gives, got another")
    try:
        for entry in description["taps"].values():
            _read(entry)
        if not all(isinstance(name, str) for name in (description["name"], *description["network"])):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("expected name, taps and network as state_dict() gives them, got others") from None
    return description


def differences(own: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a state from being loaded: in words, the backbone's own side first.

    Args:
        own: of the backbone that loads.
        given: what `unpack` gave.
    """
    if given["name"] != own["name"]:
        yield f"name: expected {own['name']!r}, got {given['name']!r}"
        return
    if given["taps"].keys() != own["taps"].keys():
        yield f"taps: expected {', '.join(own['taps'])}, got {', '.join(given['taps'])}"
        return
    for tap, entry in own["taps"].items():
        expected, got = _read(entry), _read(given["taps"][tap])
        if expected[1:] != got[1:]:
            what = "channels" if expected[1] != got[1] else "weights of the channels"
            yield f"{what} of tap {tap!r}: expected {_named(entry)}, got {_named(given['taps'][tap])}"
        if expected[0] != got[0]:
            yield f"weights_hash of tap {tap!r}: expected {expected[0][:12]}..., got {got[0][:12]}..."


def _read(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...] | None, tuple[float, ...] | None]:
    """Hash, channels and their weights, in one form: None for all channels, and for weights of 1."""
    chosen, full = entry["channels"], int(entry["full_channels"])
    if chosen is None:
        return str(entry["weights_hash"]), None, None
    indices = tuple(int(index) for index in chosen["indices"])
    weights = None if chosen["weights"] is None else tuple(float(weight) for weight in chosen["weights"])
    everything = len(indices) == full and indices == tuple(range(full))
    uniform = weights is None or all(weight == 1 for weight in weights)
    return str(entry["weights_hash"]), None if everything else indices, None if uniform else weights


def _named(entry: Mapping[str, Any]) -> str:
    """A selection with its name, its size and the first of what it consists of."""
    chosen = entry["channels"]
    if chosen is None:
        return f"all {entry['full_channels']}"
    _, indices, weights = _read(entry)
    text = f"{chosen.get('name')!r}, {len(chosen['indices'])} of {entry['full_channels']}"
    for listed in (indices, weights):
        if listed is not None:
            text += f" ({', '.join(map(str, listed[:_LISTED]))}{', ...' if len(listed) > _LISTED else ''})"
    return text


def same(own: Tensor, given: object) -> bool:
    """Whether given values are a tensor's own, in its precision."""
    if not isinstance(given, Tensor) or given.shape != own.shape or given.device.type == "meta":
        return False
    return torch.equal(own.detach().cpu(), given.detach().to("cpu", own.dtype))


def _digests(tensor: Tensor) -> dict[torch.dtype, str]:
    tensor = _narrow(tensor.detach())
    dtypes = _DTYPES if tensor.is_floating_point() else (tensor.dtype,)
    return {dtype: _digest(tensor.to(dtype)) for dtype in dtypes}


def _narrow(tensor: Tensor) -> Tensor:
    """Float64 that float32 can hold, in that; anything else as it is. On the CPU."""
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.float64:
        return tensor
    narrow = tensor.float()
    return narrow if torch.equal(narrow.double(), tensor) else tensor


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
    # NumPy has no bfloat16.
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    digest.update(np.ascontiguousarray(bits.numpy()).data)
    return digest.hexdigest()


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
    return type(value).__name__
