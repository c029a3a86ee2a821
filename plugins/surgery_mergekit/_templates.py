"""Chat templates: written out, chosen by vote, or by a name that mergekit knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from surgery.recipe.document import shown
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference

CHAT_TEMPLATE: Final = "stitch.chat_template"
_KNOWN: Final = ("auto", "chatml", "llama3")
_OTHERS: Final = ("alpaca", "exaone", "mistral")


def template_of(reading: Reading, data: Mapping[str, Any]) -> str | None:
    """Return what a document says of its chat template; None for nothing, and for those that only mergekit has."""
    text, path = data.get("chat_template"), ("chat_template",)
    if text is None or text in _KNOWN:
        return text
    if text in _OTHERS:
        what = f"mergekit's template `{text}` is not here, and passed over: the tokenizer's own is kept"
        reading.warn(path, f"{what}; write a template, or `auto`")
        return None
    if not isinstance(text, str) or len(text) < 20 or "{" not in text:
        reading.refuse(path, f"must be a Jinja template of at least 20 characters, got {shown(text)}")
        return None
    return text


def template_step(result: str, template: str, donor: str | None, voters: Iterable[str]) -> dict[str, Any]:
    """Return the step that gives a result the donor's tokenizer with a template. For `auto` the voters choose it."""
    others = [*(voters if template == "auto" else ()), *([donor] if donor is not None else ())]
    step = {"op": CHAT_TEMPLATE, "models": [result, *dict.fromkeys(others)], "template": template}
    return step if donor is None else {**step, "files_of": donor}


def voters_of(base: Reference | None, taken: Iterable[str], models: Models, dtype: str | None) -> list[str]:
    """Return the models that a document merges, each once, the base first."""
    first = [models.name(base, dtype)] if base is not None else []
    found: dict[tuple[Any, ...], str] = {}
    for name in [*first, *taken]:
        found.setdefault(models.identity(name), name)
    return list(found.values())
