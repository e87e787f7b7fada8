"""`pe-runtime taps`: the backbones, and where features can be taken from them."""

from __future__ import annotations

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table

from pe_runtime.backbones import BACKBONE_NAMES, Tap, list_taps


@click.command()
@click.argument("backbone", required=False, type=click.Choice(BACKBONE_NAMES), metavar="[BACKBONE]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(backbone: str | None, as_json: bool) -> None:
    """List the taps of BACKBONE, or every backbone with its taps.

    Stride is in image pixels; the map is that of a 224 x 224 image; A=B is one tap with two names. No
    weights are loaded.

    \b
    Example:
      pe-runtime taps vgg16
    """
    names = BACKBONE_NAMES if backbone is None else (backbone,)
    taps = {name: list_taps(name) for name in names}
    if as_json:
        listed = {name: [dataclasses.asdict(tap) for tap in taps[name]] for name in names}
        click.echo(json.dumps(listed, indent=2))
    elif backbone is None:
        _print_backbones(taps)
    else:
        _print_taps(backbone, taps[backbone])


def _print_backbones(taps: dict[str, tuple[Tap, ...]]) -> None:
    table = Table("backbone", "taps")
    for name, listed in taps.items():
        # Not broken within a name, so that a tap can be searched for and copied.
        table.add_row(name, " ".join(_named(tap) for tap in listed))
    Console().print(table)


def _print_taps(name: str, taps: tuple[Tap, ...]) -> None:
    table = Table(title=name)
    table.add_column("tap")
    for heading in ("channels", "stride", "map"):
        table.add_column(heading, justify="right")
    for tap in taps:
        table.add_row(_named(tap), str(tap.channels), str(tap.stride), f"{tap.size} x {tap.size}")
    Console().print(table)


def _named(tap: Tap) -> str:
    return "=".join((tap.name, *tap.aliases))
