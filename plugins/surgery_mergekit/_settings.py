"""What holds for a whole document: method, base, dtypes, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from surgery.errors import did_you_mean
from surgery.recipe.document import shown
from surgery_mergekit._methods import METHODS, UNKNOWN, Method
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Reference, reference
from surgery_mergekit._templates import template_of
from surgery_mergekit._tokens import Vocabulary, vocabulary_of

DTYPES: Final = ("bfloat16", "float16", "float32", "float64")
KEYS: Final = (
    *("merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer", "chat_template", "name", "compat"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """A document's settings. Without a vocabulary, tokenizers are not looked at and the donor's is copied."""

    name: str
    word: str
    method: Method
    base: Reference | None
    dtype: str | None
    stored: str | None
    vocabulary: Vocabulary | None
    template: str | None
    compat: bool


def settings_of(reading: Reading, data: dict[str, Any], name: str) -> Settings:
    """Return a document's settings. What is wrong with them is noted."""
    reading.mapping(data, (), KEYS)
    word = data.get("merge_method")
    method = METHODS.get(word) if isinstance(word, str) else None
    if method is None:
        near = did_you_mean(word, METHODS) if isinstance(word, str) else ""
        reading.refuse(("merge_method",), f"unknown method, got {shown(word)}{near}")
    base = data.get("base_model")
    return Settings(
        name=name,
        word=str(word),
        method=method or UNKNOWN,
        base=reference(reading, base, ("base_model",)) if base is not None else None,
        dtype=dtype_of(reading, data, "dtype"),
        stored=dtype_of(reading, data, "out_dtype") or dtype_of(reading, data, "dtype"),
        vocabulary=vocabulary_of(reading, data),
        template=template_of(reading, data),
        compat=_compat(reading, data),
    )


def dtype_of(reading: Reading, data: Mapping[str, Any], key: str) -> str | None:
    """Return the dtype under a key; None if there is none, or after refusing it."""
    raw = data.get(key)
    if raw is None:
        return None
    word = raw.removeprefix("torch.") if isinstance(raw, str) else raw
    if word not in DTYPES:
        near = did_you_mean(word, DTYPES) if isinstance(word, str) else ""
        reading.refuse((key,), f"must be a floating-point dtype, got {shown(raw)}{near}")
        return None
    return str(word)


def _compat(reading: Reading, data: dict[str, Any]) -> bool:
    if data.get("compat") not in (None, "mergekit"):
        reading.refuse(("compat",), f"must be `mergekit`, got {shown(data['compat'])}")
    return data.get("compat") == "mergekit"
