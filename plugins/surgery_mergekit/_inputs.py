"""Which models take part: those listed, the base among them or added, as many as the method takes."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.recipe.document import KeyPath
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models
from surgery_mergekit._settings import Settings
from surgery_mergekit._step import Input, Scope

_WORDS = {1: "one model", 2: "two models"}


def with_base(reading: Reading, settings: Settings, models: Models, listed: list[Input]) -> Input | None:
    """Return which input is the base; one that is not listed is added last. None without a base."""
    if settings.base is None:
        return None
    found = next((one for one in listed if one.model == settings.base), None)
    if found is None:
        name = models.name(settings.base, settings.dtype, {one.name for one in listed})
        path = ("base_model",)
        found = Input(name, settings.base, Scope({}, path), path)
        listed.append(found)
    return found


def check_models(
    reading: Reading, settings: Settings, inputs: Sequence[Input], base: Input | None, path: KeyPath
) -> bool:
    """Refuse a missing base and a number of models that the method does not take; return whether all is well."""
    method, word = settings.method, settings.word
    if base is None and method.base in ("required", "start"):
        reading.refuse(("merge_method",), f"`{word}` needs a base; add `base_model:`")
        return False
    beside = len(inputs) - (base is not None and method.base != "input")
    least, most = method.models
    if beside < least or (most is not None and beside > most):
        exact = _WORDS.get(least, f"{least} models")
        wanted = exact if least == most else f"{exact} or more"
        of = "" if method.base == "input" else " beside the base"
        reading.refuse(path, f"`{word}` takes {wanted}{of}, got {beside}")
        return False
    return True
