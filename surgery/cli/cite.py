"""`surgery cite`: print the BibTeX of what a recipe uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from surgery.cli.console import say
from surgery.cli.options import plugin_option, recipe_argument
from surgery.cli.registry import host_with, named_op

if TYPE_CHECKING:
    from surgery.host import Host
    from surgery.recipe.model import Recipe
    from surgery.report.citations import Cited

# An op's name, and no recipe's.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*\.(?!ya?ml$|json$)[a-z][a-z0-9_]*")


@click.command("cite")
@recipe_argument
@plugin_option
def command(recipe: Path, plugins: tuple[Path, ...]) -> None:
    """Print the BibTeX of what a recipe uses.

    Every paper that an op of the recipe comes from, once, with the ops above it; of a search also the sampler's. No
    model is looked at. Instead of a recipe an op may be named: `surgery cite merge.ties`.
    """
    from surgery.recipe.load import load_recipe, read_text
    from surgery.recipe.yaml import read_documents
    from surgery.report.citations import bibliography

    used: dict[str, Cited]
    if _NAME.fullmatch(str(recipe)) and not recipe.exists():
        op = named_op(host_with(plugins), str(recipe))
        used = {op.name: op}
    elif any(document.holes for document in read_documents(read_text(recipe), str(recipe))):
        used = _in_search(recipe, plugins)
    else:
        host = host_with(plugins)
        used = _in_steps(load_recipe(recipe, foreign=host.read_foreign), host)
    say(bibliography(used[name] for name in sorted(used)).rstrip("\n"))


def _in_steps(recipe: Recipe, host: Host) -> dict[str, Cited]:
    from surgery.recipe.resolve_ops import resolve_steps

    return {step.op.name: step.op for step in resolve_steps(recipe, host.op, host.op_names).values()}


def _in_search(recipe: Path, plugins: tuple[Path, ...]) -> dict[str, Cited]:
    from surgery.search.task import load_task

    task = load_task(recipe, plugins, trust=True)  # nothing is run
    kinds: tuple[Cited, ...] = (task.sampler, task.evaluator)
    return _in_steps(task.recipe(task.space.centre), task.host) | {kind.name: kind for kind in kinds}
