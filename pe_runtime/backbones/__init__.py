"""Backbones: fixed networks that turn images into features, truncated and selected (docs/backbones.md)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pe_runtime.backbones.architectures import CHAIN_NAMES, build_chain
from pe_runtime.backbones.network import ChainNetwork, full_chain
from pe_runtime.backbones.state import BuiltWeights, differences, hash_now, pack, same, unpack
from pe_runtime.backbones.weights import Weights
from pe_runtime.channels import ChannelSet
from pe_runtime.checks import check_choice, check_images
from pe_runtime.defaults import torch_defaults

__all__ = ["BACKBONE_NAMES", "Backbone", "Cost", "Tap", "list_taps"]

BACKBONE_NAMES: tuple[str, ...] = ("gabor", *CHAIN_NAMES)
"""What `Backbone` accepts as a name."""

_MAP_SIZES = (224, 448)
_NETWORK = "network."


@dataclass(frozen=True)
class Cost:
    """What a selection saves: the network up to its last tap, with all channels and as it is.

    Args:
        parameters_full: learned parameters with all channels (weights and biases; no buffers).
        parameters: learned parameters of the backbone.
        flops_full: floating-point operations of one image with all channels; a multiply-add counts as
            two, and convolutions alone count, as torch's flop counter has it.
        flops: the same of the backbone.
    """

    parameters_full: int
    parameters: int
    flops_full: int
    flops: int


@dataclass(frozen=True)
class Tap:
    """A place where a backbone's features can be taken.

    Args:
        name: what `Backbone` calls it.
        channels: in the full network.
        stride: image pixels from one feature to the next.
        size: height and width of the map of a 224 px image.
        aliases: other names of it.
    """

    name: str
    channels: int
    stride: int
    size: int
    aliases: tuple[str, ...]


class Backbone(nn.Module):
    """A fixed feature extractor: nothing after its last tap, and of the taps only the channels wanted.

    The network is always in eval mode, and its parameters take no gradient; gradients flow to the images.
    It is made on the CPU; `.to()` moves it.

    Args:
        name: "gabor" or one of torchvision's networks; see BACKBONE_NAMES.
        taps: a list of tap names; or a dict of tap name to `ChannelSet`, or to None for all channels.
            None: every tap, for "gabor" alone. `list_taps` or `pe-runtime taps` gives the names.
        weights: "default" (published, through torchvision, which caches the download), "random" (seeded),
            the path of a .safetensors file or of a .pt or .pth state dict, or a state dict with
            torchvision's keys. "gabor" takes "default" only.
        seed: for weights="random".
        save_weights: whether `state_dict()` has the weights of the network. By default it has those that take
            a gradient, none unless you ask for it, and says which network and channels it is of:
            `load_state_dict` refuses that of another with a RuntimeError that names both.

    Attributes:
        name: as given.
        save_weights: as given; may be set at any time.
        taps: tap names, in network order.
        channels: the selection per tap.
        out_channels: channels that `forward` gives per tap.
        full_channels: channels of the tap in the full network.
        min_size: least height and width of an image.

    Raises:
        OSError: the weights cannot be downloaded or read.
        TypeError: an argument is of the wrong type.
        ValueError: unknown name or tap; channels that the tap lacks; weights that do not fit the network;
            a channel set derived from other weights.
    """

    def __init__(
        self,
        name: str = "gabor",
        taps: Iterable[str] | Mapping[str, ChannelSet | None] | None = None,
        weights: Weights = "default",
        *,
        seed: int = 0,
        save_weights: bool = False,
    ) -> None:
        super().__init__()
        check_choice(name, "name", BACKBONE_NAMES)
        wanted = _wanted(name, taps)
        self.name = name
        self.save_weights = save_weights
        with torch_defaults():
            self.network = _build(name, wanted, weights, seed)
        self._built = BuiltWeights(self.network)
        self.taps: tuple[str, ...] = self.network.taps
        self.channels: dict[str, ChannelSet | None] = self.network.channels
        self.out_channels: dict[str, int] = self.network.out_channels
        self.full_channels: dict[str, int] = self.network.full_channels
        self.min_size: int = self.network.min_size
        for tap, chosen in self.channels.items():
            if chosen is not None and chosen.weights_hash not in (None, self.weights_hash(tap)):
                raise ValueError(
                    f"channels of tap {tap!r}: expected a set derived from these weights "
                    f"({self.weights_hash(tap)[:12]}...), got one from {str(chosen.weights_hash)[:12]}..."
                )
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of each tap.

        Args:
            images: (B, 3, H, W), RGB in [0, 1], floating point; computed in the parameters' dtype. The
                normalisation that the network was trained with is applied here. Values are not checked.

        Returns:
            Tap to (B, out_channels[tap], h, w), in network order.

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: wrong shape, or smaller than `min_size`.
        """
        check_images(images, "images", min_size=self.min_size, values=False)
        features: dict[str, Tensor] = self.network(images.to(_dtype(self.network)))
        return features

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode, whatever the model that holds the backbone does."""
        super().train(False)
        return self

    def weights_hash(self, tap: str) -> str:
        """SHA-256 (hex) of the weights that a tap's features depend on, before any selection.

        Weights that were changed in the network, in whatever way, give another: a hash of the first one and
        of what has changed. Their values are read for that, each time. A move to another device or precision
        changes none.

        Raises:
            ValueError: not one of this backbone's taps.
        """
        built: str = self.network.weights_hash(tap)
        return hash_now(built, self._built.changed(self.network, self.network.weight_names(tap)))

    def describe(self) -> dict[str, Any]:
        """What the backbone is, for files and reports: JSON-able.

        Returns:
            "name", "weights" (where they come from) and "taps": per tap "full_channels", "weights_hash"
            and "channels": None for all, else "name", "indices" and "weights" (None: uniform).
        """
        return self._description(())

    def _description(self, without: Collection[str]) -> dict[str, Any]:
        """`describe`, with hashes that see no change of some entries of the network."""
        names = {tap: set(self.network.weight_names(tap)).difference(without) for tap in self.taps}
        changed = self._built.changed(self.network, set().union(*names.values()))
        return {
            "name": self.name,
            "weights": self.network.source if isinstance(self.network, ChainNetwork) else "built in",
            "taps": {
                tap: {
                    "full_channels": self.full_channels[tap],
                    "weights_hash": hash_now(
                        self.network.weights_hash(tap),
                        {name: digest for name, digest in changed.items() if name in names[tap]},
                    ),
                    "channels": _describe_channels(self.channels[tap]),
                }
                for tap in self.taps
            },
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As that of any module, but of the network what `save_weights` says."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "") + _NETWORK
        saved = {prefix + name for name in self._saved()}
        for key in [key for key in state if key.startswith(prefix) and key not in saved]:
            del state[key]
        return state

    def get_extra_state(self) -> Tensor:
        """What a state is of: the selection, the hashes of what is left out, and what is not left out."""
        saved = self._saved()
        return pack({**self._description(saved), "network": saved})

    def set_extra_state(self, state: Any) -> None:
        """Does nothing: `_load_from_state_dict` has compared the state before anything was loaded."""

    def _saved(self) -> list[str]:
        """Names of the network's entries that a state dict has."""
        entries = self.network.state_dict(keep_vars=True)
        return [name for name, tensor in entries.items() if self.save_weights or tensor.requires_grad]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        entries = self.network.state_dict(keep_vars=True)
        key_of = {name: f"{prefix}{_NETWORK}{name}" for name in entries}
        given = {name: state_dict[key] for name, key in key_of.items() if key in state_dict}
        expected = set(given)
        extra = f"{prefix}_extra_state"
        if extra in state_dict:
            expected |= self._check_state(state_dict[extra], given, extra)
        elif given:
            self._check_undescribed(entries, given, prefix)
            state_dict[extra] = self.get_extra_state()
        # Hands torch the weights that are there for those that were left out, which it would call missing.
        state_dict.update({key_of[name]: entries[name] for name in entries if name not in expected})
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _check_state(self, packed: object, given: Collection[str], extra: str) -> set[str]:
        """Refuse the state of another backbone; which entries of the network were saved with it."""
        try:
            state = unpack(packed)
        except ValueError as error:
            raise RuntimeError(f"{extra}: {error}") from None
        found = "; ".join(differences(self._description(given), state))
        if found:
            raise RuntimeError(f"{extra}: expected the state of this network and these channels: {found}")
        return set(state["network"])

    def _check_undescribed(self, own: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> None:
        """Refuse weights that are not this network's and that come without a word of what they are of."""
        for name, values in given.items():
            if not own[name].requires_grad and not same(own[name], values):
                raise RuntimeError(
                    f"{prefix}{_NETWORK}{name}: expected the weights of this network and these channels, "
                    f"got others, in a state without {prefix}_extra_state, which would say of what"
                )

    def cost(self, height: int, width: int) -> Cost:
        """Parameters and operations with all channels and with the selection, for one image.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Raises:
            ValueError: smaller than `min_size`.
        """
        images = torch.empty(1, 3, height, width, device="meta")
        check_images(images, "height, width", min_size=self.min_size, values=False)
        full: nn.Module
        with torch_defaults():
            if self.name == "gabor":
                full = _build("gabor", dict.fromkeys(self.taps), "default", 0)
            else:
                full = full_chain(self.name, self.channels)
        return Cost(
            parameters_full=_parameters(full),
            parameters=_parameters(self.network),
            flops_full=_flops(full, images),
            flops=_flops(self.network, images),
        )

    def extra_repr(self) -> str:
        """The arguments that matter, for `print`."""
        return f"{self.name!r}, " + ", ".join(
            f"{tap}: {self.out_channels[tap]} of {self.full_channels[tap]}" for tap in self.taps
        )


def list_taps(name: str) -> tuple[Tap, ...]:
    """The taps of a backbone, in network order; no weights are loaded.

    Raises:
        ValueError: no such backbone.
    """
    check_choice(name, "name", BACKBONE_NAMES)
    with torch_defaults():
        return _list_taps(name)


def _list_taps(name: str) -> tuple[Tap, ...]:
    if name == "gabor":
        network = _build(name, _wanted(name, None), "default", 0)
        small, large = (
            {tap: features.shape for tap, features in network(torch.zeros(1, 3, size, size)).items()}
            for size in _MAP_SIZES
        )
        return tuple(
            Tap(tap, small[tap][1], _stride(small[tap][2], large[tap][2]), small[tap][2], ()) for tap in small
        )
    chain = build_chain(name)
    maps = zip(chain.steps, *(chain.map_shapes(size) for size in _MAP_SIZES), strict=True)
    return tuple(
        Tap(step.name, channels, _stride(size, large), size, _aliases(chain.aliases, step.name))
        for step, (channels, size), (_, large) in maps
    )


def _wanted(name: str, taps: Iterable[str] | Mapping[str, ChannelSet | None] | None) -> dict[str, Any]:
    """Tap name to channel set or None."""
    if taps is None and name == "gabor":
        from pe_runtime.backbones.gabor import GABOR_TAPS

        return dict.fromkeys(GABOR_TAPS)
    if taps is None:
        names = ", ".join(tap.name for tap in list_taps(name))
        raise ValueError(f"taps: expected some of {names}, got None")
    if isinstance(taps, str) or not isinstance(taps, Iterable):
        raise TypeError(f"taps: expected a list of tap names or a dict of tap to ChannelSet, got {taps!r}")
    listed = list(taps)
    if not listed or len(set(listed)) != len(listed):
        raise ValueError(f"taps: expected at least one tap, each once, got {listed}")
    wanted = dict(taps) if isinstance(taps, Mapping) else dict.fromkeys(listed)
    for tap, chosen in wanted.items():
        if not isinstance(tap, str):
            raise TypeError(f"taps: expected tap names, got {tap!r}")
        if chosen is not None and not isinstance(chosen, ChannelSet):
            raise TypeError(f"channels of tap {tap!r}: expected a ChannelSet or None, got {chosen!r}")
    return wanted


def _build(name: str, taps: Mapping[str, ChannelSet | None], weights: Weights, seed: int) -> Any:
    if name != "gabor":
        return ChainNetwork(name, taps, weights, seed)
    if not isinstance(weights, str) or weights != "default":
        got = weights if isinstance(weights, str) else type(weights).__name__
        raise ValueError(f"weights: expected 'default' for 'gabor', which is made in code, got {got!r}")
    from pe_runtime.backbones.gabor import build_gabor

    return build_gabor(taps)


def _dtype(network: nn.Module) -> torch.dtype:
    """The dtype that a network computes in; the V1 model has buffers only."""
    tensors = (*network.parameters(), *network.buffers())
    return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())


def _describe_channels(chosen: ChannelSet | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    weights = None if chosen.weights is None else list(chosen.weights)
    return {"name": chosen.name, "indices": list(chosen.indices), "weights": weights}


def _aliases(aliases: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(alias for alias, target in aliases.items() if target == name)


def _stride(small: int, large: int) -> int:
    # The difference of the sizes is a multiple of every stride, so that what it adds is exact.
    return (_MAP_SIZES[1] - _MAP_SIZES[0]) // (large - small)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).to("meta")(images.to(_dtype(module)))
    return int(counter.get_total_flops())
