"""torchvision's networks as chains of named steps; a tap is the output of a step.

Models are built on the meta device: they have shapes and no values, so that a network that is used up to
its third layer never allocates the rest. torchvision is imported by `build_chain`, not before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LARGEST_MIN_SIZE = 256


@dataclass(frozen=True)
class Step:
    """One step of a chain: its tap name, where torchvision's model keeps it, and the module."""

    name: str
    key: str
    module: nn.Module


@dataclass(frozen=True)
class Chain:
    """A torchvision network without its classifier, on the meta device.

    Args:
        name: torchvision's name for it.
        steps: in network order; each reads the output of the one before.
        keys: every key of the state dict of torchvision's whole model, classifiers included.
        aliases: further tap names, each standing for the name of a step.
        mean: what is subtracted from images in [0, 1], per RGB channel.
        std: what they are then divided by.
    """

    name: str
    steps: tuple[Step, ...]
    keys: frozenset[str]
    aliases: dict[str, str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def position(self, tap: str) -> int:
        """Number of the step that a tap name or alias stands for.

        Raises:
            ValueError: no such tap; the error lists them.
        """
        names = [step.name for step in self.steps]
        name = self.aliases.get(tap, tap)
        if name not in names:
            raise ValueError(f"taps: expected some of {', '.join((*names, *self.aliases))}, got {tap!r}")
        return names.index(name)

    def upto(self, position: int) -> Chain:
        """The chain without the steps after `position`."""
        return Chain(self.name, self.steps[: position + 1], self.keys, self.aliases, self.mean, self.std)

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the steps by torchvision's key, without the batch counters."""
        return {key: tensor for step in self.steps for key, tensor in step_state(step).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Give the steps their weights; `state` has the keys of `state()`."""
        for step in self.steps:
            # Batch counters, absent here as from older files, are filled in by the batch norms.
            own = {key.removeprefix(f"{step.key}."): state[key] for key in step_state(step)}
            step.module.load_state_dict(own, assign=True)
            step.module.requires_grad_(False)

    def map_shapes(self, size: int) -> list[tuple[int, int]]:
        """Channels and map height of each step's output for a square image.

        Raises:
            RuntimeError: the image is too small for the chain.
        """
        shapes = []
        features = torch.empty(1, 3, size, size, device="meta")
        for step in self.steps:
            features = step.module(features)
            shapes.append((features.shape[1], features.shape[2]))
        return shapes

    def min_size(self) -> int:
        """Least height and width of an image that leaves a map at the last step."""
        # A map never shrinks when the image grows, so bisection finds the first size that fits.
        return 1 + bisect_left(range(1, _LARGEST_MIN_SIZE), True, key=self._fits)

    def _fits(self, size: int) -> bool:
        try:
            self.map_shapes(size)
        except RuntimeError:
            return False
        return True


def step_state(step: Step) -> dict[str, Tensor]:
    """Parameters and buffers of one step by torchvision's key, without the batch counters."""
    return {
        f"{step.key}.{name}": tensor
        for name, tensor in step.module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def build_chain(name: str) -> Chain:
    """A torchvision network, on the meta device, as a chain.

    Args:
        name: one of CHAIN_NAMES.
    """
    import torchvision

    list_steps, options = _FAMILIES[name]
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None, **options).eval().requires_grad_(False)
    keys = frozenset(model.state_dict())
    for module in model.modules():
        # A ReLU in place would overwrite the convolution's output, which may be a tap.
        if isinstance(module, nn.ReLU):
            module.inplace = False
    steps = tuple(Step(tap, key, _exportable(model.get_submodule(key))) for tap, key in list_steps(model))
    chain = Chain(name, steps, keys, _stage_aliases(steps))
    if name == "googlenet":
        # Its published weights were trained on images in [-1, 1] (torchvision's `transform_input`).
        return Chain(name, steps, keys, {}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return chain


class CeilMaxPool2d(nn.MaxPool2d):
    """Max pooling whose last window may hang over the edge, without `ceil_mode`.

    `ceil_mode` decides by comparing sizes whether the last window counts, which an exporter of dynamic
    sizes can fail to decide (GoogLeNet's does). Padding with -inf on the right and at the bottom gives
    the same values with no decision. Needs no padding of its own and a stride no larger than the window.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W)."""
        assert isinstance(self.stride, int)
        edge = self.stride - 1
        padded = F.pad(features, (0, edge, 0, edge), value=float("-inf"))
        return F.max_pool2d(padded, self.kernel_size, self.stride)


def _exportable(module: nn.Module) -> nn.Module:
    """The module with every `ceil_mode` pooling replaced by one that exports."""
    if isinstance(module, nn.MaxPool2d) and module.ceil_mode:
        if module.stride == 1:
            return nn.MaxPool2d(module.kernel_size, 1, module.padding)
        return CeilMaxPool2d(module.kernel_size, module.stride)
    for name, child in module.named_children():
        setattr(module, name, _exportable(child))
    return module


def _vgg_steps(model: Any) -> Iterator[tuple[str, str]]:
    """conv1_1, relu1_1, ..., pool5: block and number within it, as in the paper."""
    block, number = 1, 0
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.MaxPool2d):
            yield f"pool{block}", f"features.{index}"
            block, number = block + 1, 0
        else:
            number += isinstance(layer, nn.Conv2d)
            kind = "conv" if isinstance(layer, nn.Conv2d) else "relu"
            yield f"{kind}{block}_{number}", f"features.{index}"


def _numbered_steps(model: Any) -> Iterator[tuple[str, str]]:
    """AlexNet and SqueezeNet: layers numbered by convolution or Fire; a pool has the number before it."""
    number = 0
    for index, layer in enumerate(model.features):
        kind = {"Conv2d": "conv", "ReLU": "relu", "MaxPool2d": "pool", "Fire": "fire"}[type(layer).__name__]
        number += kind in ("conv", "fire")
        yield f"{kind}{number}", f"features.{index}"


def _shufflenet_steps(model: Any) -> Iterator[tuple[str, str]]:
    yield "conv1", "conv1"
    yield "pool1", "maxpool"
    for stage in ("stage2", "stage3", "stage4"):
        for index in range(len(getattr(model, stage))):
            yield f"{stage}_{index + 1}", f"{stage}.{index}"
    yield "conv5", "conv5"


def _googlenet_steps(model: Any) -> Iterator[tuple[str, str]]:
    for key, _ in model.named_children():
        if key.startswith(("conv", "inception")):
            yield key, key
        elif key.startswith("maxpool"):
            yield key.removeprefix("max"), key


def _stage_aliases(steps: Sequence[Step]) -> dict[str, str]:
    """ShuffleNet's stages, each standing for its last unit."""
    return {step.name.split("_")[0]: step.name for step in steps if step.name.startswith("stage")}


_FAMILIES: dict[str, tuple[Callable[[Any], Iterator[tuple[str, str]]], dict[str, Any]]] = {
    "vgg16": (_vgg_steps, {}),
    "vgg19": (_vgg_steps, {}),
    "alexnet": (_numbered_steps, {}),
    "squeezenet1_0": (_numbered_steps, {}),
    "squeezenet1_1": (_numbered_steps, {}),
    "shufflenet_v2_x0_5": (_shufflenet_steps, {}),
    "shufflenet_v2_x1_0": (_shufflenet_steps, {}),
    "shufflenet_v2_x1_5": (_shufflenet_steps, {}),
    "shufflenet_v2_x2_0": (_shufflenet_steps, {}),
    # The auxiliary classifiers are built because the published file has their keys.
    "googlenet": (_googlenet_steps, {"init_weights": False, "aux_logits": True}),
}

CHAIN_NAMES: tuple[str, ...] = tuple(_FAMILIES)
"""Backbones that torchvision defines and publishes weights for."""
