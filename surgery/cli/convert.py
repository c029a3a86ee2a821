"""`surgery convert`: write another tool's recipe as one of ours."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.console import say, warn
from surgery.cli.files import write_new
from surgery.cli.options import plugin_option, recipe_argument
from surgery.cli.registry import host_with
from surgery.errors import Finding, RecipeError

if TYPE_CHECKING:
    from surgery.recipe.document import Document, KeyPath
    from surgery.recipe.foreign import Translated


@click.command("convert")
@recipe_argument
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write into a file.")
@click.option("--force", is_flag=True, help="Replace a file of this name.")
@click.option(
    "--compat",
    metavar="TOOL",
    help="Ask for the tool's own numbers where ours are others, as `compat: TOOL` in the file does: `mergekit`.",
)
@plugin_option
def command(
    recipe: Path, out: Path | None, force: bool, compat: str | None, plugins: tuple[Path, ...]
) -> None:
    """Write another tool's recipe as one of ours.

    `surgery run` takes such files as they are; this shows what they mean. The comment on top says what is otherwise
    here than in the tool. No model is looked at.
    """
    made = _translated(recipe, compat, plugins)
    text = _text(made, recipe, recipe.parent if out is None else out.parent)
    for finding in made.warnings:
        warn(str(finding))
    if out is None:
        say(text.rstrip("\n"))
        return
    write_new(out, text, force=force)
    say(f"wrote {out}; look at it, then `surgery plan {out}`")
    for line in made.report:
        say(f"- {line}")


def _translated(recipe: Path, compat: str | None, plugins: tuple[Path, ...]) -> Translated:
    """Return what a file means in our format. Raises RecipeError with all findings."""
    from surgery.recipe.document import Document
    from surgery.recipe.load import read_text, recipe_of, translate
    from surgery.recipe.yaml import read_documents

    documents = read_documents(read_text(recipe), str(recipe))
    if any(isinstance(one.data, dict) and "surgery" in one.data for one in documents):
        raise RecipeError(
            Finding("is a recipe of ours already; `surgery plan` shows what it does", str(recipe))
        )
    asked = [_with(one, compat) for one in documents] if compat else documents
    made = translate(asked, recipe.parent, host_with(plugins).read_foreign)
    if made is None:
        raise RecipeError(
            Finding("no plugin reads it; see `surgery plugins` for those there are", str(recipe))
        )
    recipe_of(Document(str(recipe), documents[0].text, made.data, made.places, foreign=True), recipe.parent)
    return made


def _with(document: Document, compat: str) -> Document:
    """Return a document that asks for the tool's own numbers."""
    data = document.data
    return replace(document, data={**data, "compat": compat} if isinstance(data, dict) else data)


def _text(made: Translated, recipe: Path, folder: Path) -> str:
    """Return the recipe as it is written into a folder: what is otherwise on top, comments at the ends of lines."""
    from surgery.recipe.published import as_yaml
    from surgery.recipe.yaml import read_yaml

    body = as_yaml(_moved(made.data, recipe.parent, folder), short=True)
    keys = read_yaml(body).keys
    return _head(recipe, made.report) + _commented(body, keys, made.comments)


def _head(recipe: Path, report: Sequence[str]) -> str:
    lines = [f"# What {recipe.name} means."]
    for text in report:
        lines += textwrap.wrap(text, 105, initial_indent="# - ", subsequent_indent="#   ")
    return "\n".join(lines) + "\n"


def _commented(body: str, keys: Mapping[KeyPath, Any], comments: Mapping[KeyPath, str]) -> str:
    lines = body.split("\n")
    for path, text in comments.items():
        if path in keys:
            lines[keys[path].line - 1] += f"  # {text}"
    return "\n".join(lines)


def _moved(data: dict[str, Any], before: Path, after: Path) -> dict[str, Any]:
    """Return the recipe with paths of models that are relative to another folder."""
    models: dict[str, Any] = {}
    for name, model in data["models"].items():
        if isinstance(model, str):
            models[name] = _path(model, before, after)
        else:
            models[name] = {
                key: _path(value, before, after) if key in ("source", "adapter") else value
                for key, value in model.items()
            }
    return {**data, "models": models}


def _path(written: str, before: Path, after: Path) -> str:
    if not written.startswith(("./", "../")) or before.resolve() == after.resolve():
        return written
    moved = os.path.relpath(before / written, after)
    return moved if moved.startswith(".") else f"./{moved}"
