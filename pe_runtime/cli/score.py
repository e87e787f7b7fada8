"""`pe-runtime score`: perceptual-efficacy scores of a backbone's channels."""

from __future__ import annotations

from pathlib import Path

import click

from pe_runtime.cli.options import channel_numbers


@click.command(name="score")
@click.argument("backbone")
@click.option(
    "--tap", "taps", multiple=True, help="Tap to score; repeat for several. Default for gabor: all."
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Profile to write, .safetensors. With several taps, {tap} in the name is replaced by each.",
)
@click.option(
    "--weights", default="default", help="default (published), random, or a file.  [default: default]"
)
@click.option("--seed", default=0, help="Of random weights.")
@click.option(
    "--contrast", default=1.0, show_default=True, help="Michelson contrast of the gratings, up to 1."
)
@click.option("--size", default=224, show_default=True, help="Height and width of the gratings in pixels.")
@click.option("--pixels-per-degree", default=32.0, show_default=True, help="Of visual angle.")
@click.option("--frequencies", default=64, show_default=True, help="How many radially symmetric gratings.")
@click.option("--orientations", default=36, show_default=True, help="How many oriented gratings.")
@click.option(
    "--phase", default=0.0, show_default=True, help="Phase of the gratings at the centre, in radians."
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--device", default=None, help="cpu, cuda, cuda:1, ...  [default: cpu]")
@click.option("--batch-size", default=8, show_default=True, help="Gratings per forward pass.")
@click.option("--plot", is_flag=True, help="Draw tuning curves and scores beside each profile, as PNG.")
@click.option("--channels", help="Whose tuning --plot draws, up to 16: 0,3,17.  [default: three by PE]")
@click.option("--quiet", is_flag=True, help="No progress bar and no table.")
def command(
    backbone: str,
    taps: tuple[str, ...],
    output: Path,
    weights: str,
    seed: int,
    contrast: float,
    size: int,
    pixels_per_degree: float,
    frequencies: int,
    orientations: int,
    phase: float,
    dtype: str,
    device: str | None,
    batch_size: int,
    plot: bool,
    channels: str | None,
    quiet: bool,
) -> None:
    """Score the channels of BACKBONE by perceptual efficacy (Tariq et al., ECCV 2020).

    Gratings go through the network; how each channel's mean activation follows their spatial frequency
    (mu1) and how selective it is for their orientation (mu2) give its PE. `pe-runtime taps` lists names.

    \b
    Example:
      pe-runtime score gabor --tap scale2 -o scale2.safetensors --plot
      pe-runtime score squeezenet1_1 --weights squeezenet1_1.safetensors \\
          --tap fire3 --tap fire5 -o 'squeezenet-{tap}.safetensors'
    """
    import torch
    from rich.console import Console

    from pe_runtime.backbones import Backbone
    from pe_runtime.cli.tables import score_table
    from pe_runtime.stimuli import Stimulus
    from pe_runtime.tuning import score_channels

    drawn = channel_numbers(channels)
    stimulus = Stimulus(
        contrast=contrast,
        size=size,
        pixels_per_degree=pixels_per_degree,
        frequencies=frequencies,
        orientations=orientations,
        phase=phase,
    )
    network = Backbone(backbone, list(taps) or None, weights, seed=seed)
    paths = {tap: Path(str(output).replace("{tap}", tap)) for tap in network.taps}
    if len(set(paths.values())) < len(paths):
        raise ValueError(f"output: expected {{tap}} in the name, for there are {len(paths)} taps")
    if output.suffix != ".safetensors":
        raise ValueError(f"output: expected a name that ends in .safetensors, got {str(output)!r}")
    scored = score_channels(
        network,
        stimulus=stimulus,
        dtype=getattr(torch, dtype),
        device=device,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    for tap, profile in scored.items():
        profile.save(paths[tap])
        if plot:
            profile.plot(paths[tap].with_suffix(".tuning.png"), drawn)
            profile.plot_scores(paths[tap].with_suffix(".scores.png"))
    if not quiet:
        Console().print(score_table(scored, paths))
