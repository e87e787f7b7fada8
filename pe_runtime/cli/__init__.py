"""The `pe-runtime` command: a group whose commands are imported when they are called.

Lazy, because the gate must start quickly and without torch.
"""

from __future__ import annotations

import importlib
import sys

import click

from pe_runtime import __version__

_COMMANDS = ("taps", "score", "export", "describe", "gate", "demo")
#: Commands whose module is not called like them.
_MODULES = {"export": "export_group"}


class _LazyGroup(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"pe_runtime.cli.{_MODULES.get(name, name)}")
        command: click.Command = module.command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pe-runtime")
def cli() -> None:
    """Perceptual-efficacy scores, perceptual metrics, their export, and an image-quality gate."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    try:
        cli.main(args=arguments, prog_name="pe-runtime", standalone_mode=True)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
