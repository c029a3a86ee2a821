"""mergekit's documents, read as recipes: they run as they are, and `surgery convert` shows what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgery import RecipeError, hookimpl
from surgery.recipe.document import Document, Problem
from surgery.recipe.foreign import Translated


@hookimpl
def surgery_read_recipe(
    document: dict[str, Any], documents: Sequence[Document], folder: Path
) -> Translated | None:
    """Return what merge documents mean as a recipe; None for documents that are not mergekit's.

    Raises RecipeError with all findings, also for its documents of other kinds.
    """
    from surgery_mergekit._mixture import is_mixture, translate_mixture
    from surgery_mergekit._refused import other_kind
    from surgery_mergekit._translate import translate

    others = [(one, said) for one in documents if (said := other_kind(one.data))]
    if others:
        raise RecipeError([one.finding(Problem((), said)) for one, said in others])
    if is_mixture(document):
        return translate_mixture(documents, folder)
    if not any("merge_method" in one.data for one in documents):
        return None
    return translate(documents, folder)
