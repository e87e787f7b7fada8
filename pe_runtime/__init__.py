"""Perceptual-efficacy losses and image-quality metrics that run in PyTorch and ONNX Runtime.

The public names below are loaded on first use, so that importing the package, and running the gate,
needs neither torch nor a download.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pe_runtime import functional as functional
    from pe_runtime.backbones import Backbone as Backbone
    from pe_runtime.channels import ChannelSet as ChannelSet
    from pe_runtime.exporters import export as export
    from pe_runtime.losses import ContextualLoss as ContextualLoss
    from pe_runtime.losses import TotalLoss as TotalLoss
    from pe_runtime.metrics import LPIPS as LPIPS
    from pe_runtime.metrics import FeatureDistance as FeatureDistance
    from pe_runtime.ort import open_session as open_session
    from pe_runtime.ort import ort_library_path as ort_library_path
    from pe_runtime.profiles import Profile as Profile
    from pe_runtime.stimuli import Stimulus as Stimulus
    from pe_runtime.tuning import score_channels as score_channels

__version__ = (Path(__file__).parent / "VERSION").read_text().strip()

_HOMES = {
    "Backbone": "pe_runtime.backbones",
    "ChannelSet": "pe_runtime.channels",
    "ContextualLoss": "pe_runtime.losses",
    "FeatureDistance": "pe_runtime.metrics",
    "LPIPS": "pe_runtime.metrics",
    "Profile": "pe_runtime.profiles",
    "Stimulus": "pe_runtime.stimuli",
    "TotalLoss": "pe_runtime.losses",
    "export": "pe_runtime.exporters",
    "open_session": "pe_runtime.ort",
    "ort_library_path": "pe_runtime.ort",
    "score_channels": "pe_runtime.tuning",
}

__all__ = ["__version__", "functional", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module("pe_runtime.functional")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pe_runtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
