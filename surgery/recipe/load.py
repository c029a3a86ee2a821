"""From a YAML text to a Recipe, or to everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from surgery.errors import Finding, PluginError, RecipeError
from surgery.recipe.document import Document, Problem, shown
from surgery.recipe.foreign import Translated
from surgery.recipe.model import FORMAT, Recipe
from surgery.recipe.problems import problems_of
from surgery.recipe.references import reference_problems, unused
from surgery.recipe.yaml import MAX_BYTES, only, read_documents

_HOLE: Final = "a hole, which only `surgery search` fills; run that, or write a value in its place"

# What reads another tool's documents, all of one file, whose paths are relative to a folder; None: not known to it.
Foreign = Callable[[Sequence[Document], Path], dict[str, Any] | Translated | None]


def load_recipe(path: str | os.PathLike[str], *, foreign: Foreign | None = None) -> Recipe:
    """Read a recipe's file; paths in it are relative to its folder. Raises RecipeError with all findings."""
    return parse_recipe(read_text(path), str(path), Path(path).parent, foreign=foreign)


def read_text(path: str | os.PathLike[str]) -> bytes:
    """Return a recipe's text, at most a little more than is allowed. Raises RecipeError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(Finding(f"cannot be read: {reason.lower()}", str(path))) from None


def parse_recipe(
    text: str | bytes, file: str = "<recipe>", folder: Path | None = None, *, foreign: Foreign | None = None
) -> Recipe:
    """Return the recipe that a text says. Raises RecipeError with all findings, in the order of the text.

    `foreign` is offered what has no key `surgery`: it returns a recipe of ours, or None.
    """
    folder = Path() if folder is None else folder
    documents = read_documents(text, file)
    translated = translate(documents, folder, foreign) if foreign else None
    if translated is not None:
        text, told = documents[0].text, translated.advice
        document = Document(file, text, translated.data, translated.places, foreign=True, advice=told)
        return recipe_of(document, folder, translated.warnings)
    document = only(documents)
    if document.holes:
        raise RecipeError(document.findings([Problem(path, _HOLE) for path in document.holes]))
    return recipe_of(document, folder)


def translate(documents: Sequence[Document], folder: Path, foreign: Foreign) -> Translated | None:
    """Return what documents say that are no recipe of ours, in our format; None if nobody knows them.

    Raises RecipeError with whatever the reader that knows them finds wrong, PluginError if it returns anything else.
    """
    mappings = all(isinstance(document.data, dict) for document in documents)
    if not mappings or any("surgery" in document.data or document.holes for document in documents):
        return None
    found = foreign(documents, folder)
    if isinstance(found, dict) and len(documents) == 1:
        return Translated(found)
    if found is None or isinstance(found, Translated):
        return found
    what = "the first of several documents" if isinstance(found, dict) else repr(found)
    raise PluginError(f"surgery_read_recipe: returned {what}; return a `surgery.recipe.foreign.Translated`")


def recipe_of(document: Document, folder: Path, warnings: tuple[Finding, ...] = ()) -> Recipe:
    """Return the recipe that a document without holes says. Raises RecipeError with all findings."""
    data = document.data
    if pointless := _not_a_recipe(data):
        raise RecipeError(document.findings(pointless))
    problems, recipe = reference_problems(data, folder), None
    try:
        recipe = Recipe.of(document, folder, (*warnings, *document.findings(unused(data))))
    except ValidationError as error:
        problems += problems_of(error, data, Recipe)
    if recipe is None or problems:
        raise RecipeError(document.findings(problems))
    return recipe


def _not_a_recipe(data: Any) -> list[Problem]:
    """Return what makes looking for anything else pointless."""
    if data is None:
        return [Problem((), "the recipe is empty; begin with `surgery: 1`")]
    if not isinstance(data, dict):
        return [Problem((), f"a recipe is a mapping that begins with `surgery: 1`, got {shown(data)}")]
    if "surgery" not in data and not data.keys() & {"models", "steps", "output", "outputs"}:
        return [
            Problem((), "not a recipe: no key `surgery`, and no plugin reads it; begin with `surgery: 1`")
        ]
    version = data.get("surgery", FORMAT)
    if type(version) is not int or version != FORMAT:
        what = f"unknown recipe format, got {shown(version)}; this release reads `surgery: {FORMAT}`"
        return [Problem(("surgery",), what)]
    return []
