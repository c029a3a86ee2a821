"""The commands by name. A command's file is imported when it is invoked; plugins are asked when they may matter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from surgery.cli.exits import exit_codes
from surgery.errors import did_you_mean

# The command `name` is `surgery.cli.<name>.command`. A test compares these lines with the commands' own help.
COMMANDS: Final = {
    "run": "Carry out a recipe and write its outputs.",
    "plan": "Show what a recipe will do, from headers alone.",
    "search": "Find values for a recipe's holes.",
    "new": "Write a starter recipe.",
    "convert": "Write another tool's recipe as one of ours.",
    "ops": "List the ops of the installed plugins.",
    "op": "Show an op: what it does, its parameters, its source.",
    "inspect": "Show what a checkpoint holds.",
    "diff": "Compare two checkpoints tensor by tensor.",
    "verify": "Check an output's files against the hashes written with it.",
    "push": "Publish a finished folder.",
    "reproduce": "Make an output again from the recipe in it, and compare the bytes.",
    "report": "Make an HTML page of what a run, or a search, left behind.",
    "cite": "Print the BibTeX of what a recipe uses.",
    "plugins": "List the plugins and what each adds.",
    "plugin": "Start a plugin package.",
    "schema": "Print the JSON Schema of recipes, for editors.",
    "version": "Show the versions of surgery and of what it stands on.",
}


class LazyGroup(click.Group):
    """The top of the command line: a table of built-in commands, then what plugins add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the built-in commands in the order of the table, then the plugins' by name."""
        return [*COMMANDS, *sorted(self._added())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a built-in command, or look for it among the plugins'; None if there is none of this name."""
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"surgery.cli.{cmd_name}").command
            return command
        return self._added().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and the arguments that are left. An unknown command is a usage error."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            ctx.fail(f"no command is called `{name}`{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        added = self._added()
        rows = [*COMMANDS.items(), *((name, added[name].get_short_help_str(80)) for name in sorted(added))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises becomes a message and an exit code."""
        with exit_codes():
            return super().invoke(ctx)

    def _added(self) -> Mapping[str, click.Command]:
        from surgery.cli.extensions import plugin_commands

        return plugin_commands(frozenset(COMMANDS))
