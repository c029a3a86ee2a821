"""`surgery cite`: print the BibTeX of what a recipe uses."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.console import say
from surgery.cli.options import plugin_option, recipe_argument
from surgery.cli.registry import host_with


@click.command("cite")
@recipe_argument
@plugin_option
def command(recipe: Path, plugins: tuple[Path, ...]) -> None:
    """Print the BibTeX of what a recipe uses.

    Every paper that an op of the recipe comes from, once, with the ops above it. No model is looked at.
    """
    from surgery.recipe.load import load_recipe
    from surgery.recipe.resolve_ops import resolve_steps
    from surgery.report.citations import bibliography

    host = host_with(plugins)
    loaded = load_recipe(recipe, foreign=host.read_foreign)
    ops = {step.op.name: step.op for step in resolve_steps(loaded, host.op, host.op_names).values()}
    say(bibliography(ops[name] for name in sorted(ops)).rstrip("\n"))
