"""`surgery op`: show an op: what it does, its parameters, its source."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.console import on_terminal, rich_console, say
from surgery.cli.options import plugin_option
from surgery.cli.registry import host_with, named_op


@click.command("op")
@click.argument("name")
@plugin_option
def command(name: str, plugins: tuple[Path, ...]) -> None:
    """Show an op: what it does, its parameters, its source.

    The page is Markdown: rendered on a terminal, as it is anywhere else.
    """
    from surgery.recipe.reference import op_reference

    page = op_reference(named_op(host_with(plugins), name))
    if on_terminal():
        from rich.markdown import Markdown

        rich_console().print(Markdown(page))
    else:
        say(page.rstrip("\n"))
