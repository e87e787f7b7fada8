"""`pe-runtime export`: a metric as a file that ONNX Runtime or torch scores with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pe_runtime.cli.options import channel_numbers
from pe_runtime.gate.metric_file import read_metric

if TYPE_CHECKING:
    from pe_runtime.channels import ChannelSet
    from pe_runtime.metrics import Metric
    from pe_runtime.profiles import Profile


@dataclass(frozen=True)
class Selection:
    """Which channels of a profile, and with what weights: the options --top to --weights.

    Raises:
        ValueError: more than one way to choose the channels.
    """

    top: float | None = None
    bottom: float | None = None
    random: float | None = None
    channels: tuple[int, ...] | None = None
    seed: int = 0
    score: str = "pe"
    weights: str = "uniform"

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in self._choices()) > 1:
            raise ValueError("--top, --bottom, --random and --channels exclude each other")

    def of(self, profile: Profile) -> ChannelSet:
        """The channel set of a profile."""
        if self.channels is not None:
            return profile.select(self.channels, self.weights)
        if self.top is not None:
            return profile.top(self.top, self.score, self.weights)
        if self.bottom is not None:
            return profile.bottom(self.bottom, self.score, self.weights)
        if self.random is not None:
            return profile.random(self.random, self.seed, self.score, self.weights)
        return profile.all(self.score, self.weights)

    def is_given(self) -> bool:
        """Whether any option was used that only a profile can answer."""
        return any(choice is not None for choice in self._choices()) or self.weights != "uniform"

    def _choices(self) -> tuple[object, ...]:
        return self.top, self.bottom, self.random, self.channels


_SCORES = click.Choice(["pe", "mu1", "mu2", "pe_gain_normalised"])


@click.command(name="export")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .onnx, .pt (TorchScript) or .pt2 (torch.export).",
)
@click.option(
    "--metric",
    type=click.Choice(["distance", "lpips", "contextual"]),
    default="distance",
    show_default=True,
    help="Eq. 1, the LPIPS form, or the contextual loss.",
)
@click.option("--tap", "taps", multiple=True, help="Tap, if SOURCE is a backbone; repeat for several.")
@click.option("--backbone-weights", default="default", help="default (published), random, or a file.")
@click.option("--top", type=float, help="Use H-x: the channels with the highest x % of scores.")
@click.option("--bottom", type=float, help="Use L-x: the lowest x %.")
@click.option("--random", type=float, help="Use as many channels as H-x has, at random: the control.")
@click.option("--channels", help="Use these channels, as numbers separated by commas: 0,3,17.")
@click.option("--seed", default=0, help="Of --random, and of random backbone weights.")
@click.option("--score", type=_SCORES, default="pe", show_default=True, help="What ranks the channels.")
@click.option(
    "--weights",
    type=click.Choice(["uniform", "pe", "mu1", "mu2", "pe_gain_normalised"]),
    default="uniform",
    show_default=True,
    help="Weights of the selected channels, in proportion to a score.",
)
@click.option("--bandwidth", type=float, default=0.5, show_default=True, help="Of the contextual loss.")
@click.option("--distance", type=click.Choice(["cosine", "l2", "l1"]), default="cosine", help="Likewise.")
@click.option("--center", type=click.Choice(["sample", "batch", "none"]), default="sample", help="Likewise.")
@click.option("--spatial-weight", type=float, default=0.0, help="Likewise, of the bilateral variant.")
@click.option("--symmetric", is_flag=True, help="Likewise, in both directions.")
@click.option("--input", type=click.Choice(["float32", "uint8"]), default="float32", show_default=True)
@click.option("--map", "with_map", is_flag=True, help="Also give a difference map.")
@click.option("--verdict", is_flag=True, help="Also give whether the score passes; needs --threshold.")
@click.option("--threshold", type=float, help="Largest score that passes; the gate's default.")
@click.option(
    "--fused/--no-fused",
    default=None,
    help="Use the project's own operators.  [default: not in .onnx; in .pt, .pt2 where they are there]",
)
@click.option("--compiled", is_flag=True, help=".pt2: machine code, by AOTInductor.")
@click.option("--opset", type=click.IntRange(18, 21), help=".onnx: version of the operators.  [default: 18]")
@click.option(
    "--block-rows",
    type=click.IntRange(min=1),
    help=".onnx: rows that the contextual loss compares at once.  [default: 64]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the backbone's weights; int8, for .onnx, computes in it too.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photographs, for int8.",
)
@click.option("--no-verify", is_flag=True, help="Do not compare the file's scores with eager.")
def command(
    sources: tuple[str, ...],
    output: Path,
    metric: str,
    taps: tuple[str, ...],
    backbone_weights: str,
    top: float | None,
    bottom: float | None,
    random: float | None,
    channels: str | None,
    seed: int,
    score: str,
    weights: str,
    bandwidth: float,
    distance: str,
    center: str,
    spatial_weight: float,
    symmetric: bool,
    input: str,
    with_map: bool,
    verdict: bool,
    threshold: float | None,
    fused: bool | None,
    compiled: bool,
    opset: int | None,
    block_rows: int | None,
    precision: str,
    calibration: Path | None,
    no_verify: bool,
) -> None:
    """Write a metric as a file for ONNX Runtime (.onnx), libtorch (.pt) or torch.export (.pt2).

    SOURCE is a profile (or several of one backbone, a tap each), or the name of a backbone. With --metric
    lpips, `squeeze`, `alex` and `vgg` are the metrics of the lpips package.

    \b
    Example:
      pe-runtime export profile.safetensors --top 10 --metric distance -o metric.onnx
      pe-runtime export gabor --map --threshold 0.1 -o gabor.onnx
      pe-runtime export vgg16 --tap relu2_2 --metric contextual --fused -o contextual.onnx
    """
    selection = Selection(top, bottom, random, channel_numbers(channels), seed, score, weights)
    contextual = {
        "bandwidth": bandwidth,
        "distance": distance,
        "center": center,
        "spatial_weight": spatial_weight,
        "symmetric": symmetric,
    }
    of_one_format = {
        "opset": opset,
        "block_rows": block_rows,
        "calibration": calibration,
        "compiled": compiled or None,
    }
    from pe_runtime.exporters import export

    built = build_metric(sources, metric, selection, taps, backbone_weights, contextual)
    export(
        built,
        output,
        input=input,
        map=with_map,
        verdict=verdict,
        threshold=threshold,
        fused=fused,
        precision=precision,
        verify=not no_verify,
        **{name: value for name, value in of_one_format.items() if value is not None},
    )
    size = output.stat().st_size
    click.echo(
        f"{output}: {metric} on {built.backbone.name}, {', '.join(built.backbone.taps)}; {size:,} bytes"
    )
    if precision == "int8":
        click.echo(_drift(output))


def _drift(path: Path) -> str:
    """What quantisation does to the scores, in words."""
    about = (read_metric(path).metadata or {})["calibration"]
    return (
        f"int8 against float32 on {about['pairs']} pairs of photographs: scores differ by "
        f"{about['median_drift']:.2%} (median), {about['largest_drift']:.2%} (largest)"
    )


def build_metric(
    sources: tuple[str, ...],
    metric: str,
    selection: Selection,
    taps: tuple[str, ...] = (),
    backbone_weights: str = "default",
    contextual: dict[str, Any] | None = None,
) -> Metric:
    """The metric that the command line describes.

    Args:
        sources: profile files, or one name of a backbone.
        metric: "distance", "lpips" or "contextual".
        selection: channels and weights, if the sources are profiles.
        taps: of a backbone given by name.
        backbone_weights: "default", "random" or a path.
        contextual: settings of the contextual loss.

    Raises:
        ValueError: sources of different backbones, or options that do not fit the source.
    """
    from pe_runtime.backbones import Backbone
    from pe_runtime.losses import ContextualLoss
    from pe_runtime.metrics import LPIPS, LPIPS_NETWORKS, FeatureDistance

    if metric == "lpips" and sources[0] in LPIPS_NETWORKS:
        if selection.is_given() or taps or len(sources) > 1:
            raise ValueError(f"sources: {sources[0]!r} is a published metric; it takes no taps or selection")
        return LPIPS(sources[0], weights=backbone_weights)
    chosen, name = _channel_sets(sources, selection, taps)
    linear = None
    if metric == "lpips" and isinstance(chosen, dict):
        # Scaling to unit length would undo weights before it in part: here they follow it.
        linear = {tap: channels.weights or [1.0] * len(channels) for tap, channels in chosen.items()}
        chosen = {tap: channels.weighted(None) for tap, channels in chosen.items()}
    backbone = Backbone(name, chosen, backbone_weights, seed=selection.seed)
    if metric == "lpips":
        return LPIPS(backbone, linear=linear)
    if metric == "contextual":
        return ContextualLoss(backbone, **(contextual or {}))
    return FeatureDistance(backbone)


def _channel_sets(
    sources: tuple[str, ...], selection: Selection, taps: tuple[str, ...]
) -> tuple[dict[str, ChannelSet] | list[str] | None, str]:
    from pe_runtime.profiles import Profile

    if not all(source.endswith(".safetensors") for source in sources):
        if len(sources) > 1:
            raise ValueError("sources: expected profiles (.safetensors), or one name of a backbone")
        if selection.is_given():
            raise ValueError(
                "sources: expected a profile for a selection or weights; make one: pe-runtime score"
            )
        return list(taps) or None, sources[0]
    if taps:
        raise ValueError("tap: a profile names its own tap")
    read = [Profile.load(source) for source in sources]
    names, found = {profile.backbone for profile in read}, {profile.tap for profile in read}
    if len(names) > 1 or len(found) < len(read):
        raise ValueError("sources: expected profiles of different taps of one backbone")
    return {profile.tap: selection.of(profile) for profile in read}, names.pop()
