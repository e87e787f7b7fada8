"""Weights of torchvision's networks: published, random or local; checked, and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_runtime.backbones.architectures import Chain, step_state

Weights = str | os.PathLike[str] | Mapping[str, Tensor]

_LISTED = 5


def load_weights(chain: Chain, weights: Weights, seed: int) -> tuple[dict[str, Tensor], str]:
    """The weights of a truncated chain.

    Args:
        chain: up to the last tap; its steps say what is needed.
        weights: "default" (torchvision's IMAGENET1K_V1), "random" (see `random_state`), the path of a
            .safetensors file or of a .pt or .pth state dict, or a state dict with torchvision's keys.
            What the chain does not need (classifiers, later layers) may be absent or of another shape.
        seed: for "random".

    Returns:
        Float32 tensors by torchvision's key, sharing no memory with what was passed; and a short
        description of where they come from.

    Raises:
        OSError: the download failed, or the file cannot be read.
        TypeError: weights is of no such kind.
        ValueError: the file is damaged, is not a state dict, or does not fit the network; the error
            lists what does not fit.
    """
    if isinstance(weights, Mapping):
        return _checked(chain, weights, "a state dict"), "state dict"
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(
            f"weights: expected 'default', 'random', a path or a state dict, got {type(weights).__name__}"
        )
    if weights == "random":
        return random_state(chain, seed), f"random, seed {seed}"
    if weights == "default":
        return _checked(chain, _published(chain.name), "the published file"), "IMAGENET1K_V1"
    path = Path(weights)
    return _checked(chain, _read(path), repr(str(path))), path.name


def random_state(chain: Chain, seed: int) -> dict[str, Tensor]:
    """Seeded random weights: Kaiming-normal convolutions, batch norms that are not the identity.

    Each tensor depends on the seed and its own key alone, so that networks truncated at different taps
    agree on the layers they share.

    Raises:
        TypeError: seed is not an integer.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed: expected an integer, got {seed!r}")
    return {key: _random_tensor(key, tensor, seed) for key, tensor in chain.state().items()}


def hash_weights(chain: Chain, taps: Iterable[str]) -> dict[str, str]:
    """SHA-256 (hex) over the weights up to and including each tap, in network order.

    Covers key, dtype, shape and the little-endian bytes of every parameter and buffer but the batch
    counters. The chain must hold its weights, unsliced.
    """
    positions = {chain.position(tap): tap for tap in taps}
    digest = hashlib.sha256()
    hashes = {}
    for position, step in enumerate(chain.steps):
        for key, tensor in step_state(step).items():
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
        if position in positions:
            hashes[positions[position]] = digest.copy().hexdigest()
    return hashes


def _published(name: str) -> Mapping[str, Tensor]:
    import torchvision

    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: Mapping[str, Tensor] = published.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    # torch.hub reports a file whose hash is wrong with a RuntimeError.
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise OSError(
            f"weights: could not get the published weights of {name!r} ({error}); on a machine that is "
            f"offline, pass the path of a local file (.safetensors, .pt or .pth) of {published.url}"
        ) from error
    return state


def _read(path: Path) -> Any:
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(
            "weights: expected 'default', 'random', a state dict or a path that ends in .safetensors, .pt or "
            f".pth, got {str(path)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights: expected an existing file, got {str(path)!r}")
    # Opened first: an error after this is the file's content, whatever the parser raises (OSError included).
    with path.open("rb"):
        pass
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"weights: expected a whole state dict of nothing but tensors, got {str(path)!r} ({reason})"
        ) from error


def _checked(chain: Chain, state: Any, source: str) -> dict[str, Tensor]:
    """The needed part of a state dict, in float32; ValueError if it does not fit."""
    if not isinstance(state, Mapping):
        raise ValueError(f"weights: expected a state dict (name to tensor), got {type(state).__name__}")
    needed = chain.state()
    problems = {
        "missing": [key for key in needed if key not in state],
        "unknown": [str(key) for key in state if key not in chain.keys],
        "unusable": [
            f"{key}: {problem}"
            for key, tensor in needed.items()
            if key in state
            for problem in _unusable(state[key], tensor)
        ],
    }
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {_listed(items)}" for kind, items in problems.items() if items)
        last = chain.steps[-1].name
        raise ValueError(
            f"weights: expected those of {chain.name!r} up to {last!r}, got {source} with {listing}"
        )
    # A copy: what the caller does to their tensors later must not change the network behind its hash.
    return {key: state[key].detach().to("cpu", torch.float32, copy=True).contiguous() for key in needed}


def _unusable(tensor: Any, wanted: Tensor) -> Iterator[str]:
    """What is wrong with one tensor, at most one thing."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type == "meta":
        yield "expected a dense tensor with values"
    elif tensor.shape != wanted.shape:
        yield f"expected shape {tuple(wanted.shape)}, got {tuple(tensor.shape)}"
    elif not tensor.is_floating_point():
        yield f"expected floating point, got {tensor.dtype}"
    elif not torch.isfinite(tensor.detach().to(torch.float32)).all():
        yield "expected finite values of float32, got NaN or infinity"


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _random_tensor(key: str, like: Tensor, seed: int) -> Tensor:
    stream = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(stream)
    if like.ndim == 4:
        # No ReLU follows a depthwise convolution that would halve the power.
        power = 1 if like.shape[1] == 1 else 2
        normal = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        return normal * (power / like[0].numel()) ** 0.5
    if key.endswith(("weight", "running_var")):
        return 0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float32)
    return 0.1 * torch.randn(like.shape, generator=generator, dtype=torch.float32)
