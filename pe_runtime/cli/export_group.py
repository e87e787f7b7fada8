"""`pe-runtime export`: a file by default, or one of the commands that write folders for servers."""

from __future__ import annotations

from typing import Any

import click

from pe_runtime.cli.export import command as export_file
from pe_runtime.cli.export_servers import mlserver, triton


class _DefaultGroup(click.Group):
    """A group that hands everything to `default` unless the first word is one of its commands."""

    def __init__(self, default: click.Command, **options: Any) -> None:
        super().__init__(**options)
        self.default = default

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """A context of this group, or of the default command."""
        help_options = parent.help_option_names if parent else ["--help"]
        if args and (args[0] in self.commands or args[0] in help_options):
            return super().make_context(info_name, args, parent, **extra)
        return self.default.make_context(info_name, args, parent, **extra)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of the default command, then the others."""
        shown = click.Context(self.default, parent=ctx.parent, info_name=ctx.info_name)
        self.default.format_usage(shown, formatter)
        formatter.write_usage(ctx.command_path, "COMMAND ...", prefix="       ")
        self.default.format_help_text(shown, formatter)
        self.default.format_options(shown, formatter)
        self.format_commands(ctx, formatter)


command = _DefaultGroup(export_file, name="export", commands=[triton, mlserver])
