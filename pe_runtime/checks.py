"""Argument checks shared by every public function: one wording, and the argument's name in each error.

torch is imported inside the functions that need it: profiles and the gate use the others without it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_tracing() -> bool:
    """Whether a compiler or an exporter is recording: checks on values cannot run then."""
    import torch

    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()


def check_images(images: Tensor, name: str, *, min_size: int = 1, values: bool = True) -> None:
    """Refuse anything but a batch of RGB images, (B, 3, H, W), floating point, in [0, 1].

    Args:
        images: what the caller passed.
        name: the caller's name for it, for the error.
        min_size: the least height and width the consumer can work with.
        values: also look at the values: finite and in [0, 1]. This reads the whole tensor (and waits
            for the GPU), so training losses leave it off. Never done while compiling or exporting.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong shape, empty, too small, not finite or out of range.
    """
    import torch

    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor of RGB images, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"{name}: expected floating-point images in [0, 1], got {images.dtype} "
            "(divide 8-bit images by 255, 16-bit images by 65535)"
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: expected shape (B, 3, H, W), got {tuple(images.shape)}")
    if is_tracing():
        return
    batch, _, height, width = images.shape
    if batch == 0:
        raise ValueError(f"{name}: expected at least one image, got an empty batch {tuple(images.shape)}")
    if min(height, width) < min_size:
        raise ValueError(f"{name}: expected height and width of at least {min_size}, got {height} x {width}")
    if values and images.device.type != "meta":
        low, high = (value.item() for value in torch.aminmax(images.detach()))
        # Written so that NaN, for which every comparison is false, is refused as well.
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"{name}: expected values in [0, 1], got values from {low:g} to {high:g}")


def check_same_shape(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    """Refuse a pair of images whose shapes differ.

    Raises:
        ValueError: the shapes differ.
    """
    if not is_tracing() and first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name}: expected the same shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: the value is not a choice; the error lists them.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that may come from anywhere.

    Raises:
        ValueError: no JSON, or lists and objects nested more deeply than Python's parser goes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON, got lists or objects nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"expected JSON, got text that is not: {error}") from None
