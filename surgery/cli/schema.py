"""`surgery schema`: print the JSON Schema of recipes, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click

from surgery.cli.console import say
from surgery.cli.files import write_new
from surgery.cli.options import plugin_option
from surgery.cli.registry import all_ops, host_with


@click.command("schema")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there instead.")
@plugin_option
def command(out: Path | None, plugins: tuple[Path, ...]) -> None:
    """Print the JSON Schema of recipes, for editors.

    It knows the ops of the installed plugins. An editor uses it after the line
    `# yaml-language-server: $schema=recipe.schema.json` at the top of a recipe.
    """
    from surgery.recipe.schema import recipe_schema

    text = json.dumps(recipe_schema(all_ops(host_with(plugins)).values()), indent=2)
    if out is None:
        say(text)
    else:
        write_new(out, text + "\n", force=True)
