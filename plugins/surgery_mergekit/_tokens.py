"""One vocabulary for all models of a document: each is given it by a step of its own before anything is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from surgery.recipe.document import KeyPath, shown
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference, reference

TOKENIZER: Final = "stitch.tokenizer"
_KEYS: Final = ("source", "tokens", "pad_to_multiple_of")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a document says of tokens: `base`, `union` or a model, rules for single tokens, rounding of the rows."""

    source: Reference | str = "base"
    tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    multiple: int | None = None
    path: KeyPath = ("tokenizer_source",)


def vocabulary_of(reading: Reading, data: Mapping[str, Any]) -> Vocabulary | None:
    """Return what a document says of tokens; None if it leaves them alone."""
    written = data.get("tokenizer")
    if written is None:
        source = _source(reading, data.get("tokenizer_source"), ("tokenizer_source",))
        return Vocabulary(source) if source is not None else None
    if data.get("tokenizer_source") is not None:
        reading.refuse(("tokenizer",), "both `tokenizer` and `tokenizer_source`; keep one", key=True)
    said = reading.mapping(written, ("tokenizer",), _KEYS)
    source = _source(reading, said.get("source", "union"), ("tokenizer", "source")) or "union"
    multiple = said.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        what = f"must be a whole number from 1 up, got {shown(multiple)}"
        reading.refuse(("tokenizer", "pad_to_multiple_of"), what)
    return Vocabulary(source, _rules(reading, said.get("tokens") or {}), multiple, ("tokenizer",))


def _source(reading: Reading, raw: Any, path: KeyPath) -> Reference | str | None:
    return raw if raw in (None, "base", "union") else reference(reading, raw, path)


def _rules(reading: Reading, raw: Any) -> dict[str, dict[str, Any]]:
    """Return the rules for single tokens, with models as references."""
    path: KeyPath = ("tokenizer", "tokens")
    rules = {}
    for token, entry in reading.mapping(raw, path, raw if isinstance(raw, dict) else ()).items():
        rule = dict(reading.mapping(entry, (*path, token), ("source", "force")))
        source, where = rule.get("source"), (*path, token, "source")
        if source is None:
            reading.refuse((*path, token), "a token without `source`; write where its row comes from")
        elif isinstance(source, dict) and source.get("kind") == "model_token":
            rule["source"] = {**source, "model": reference(reading, source.get("model"), (*where, "model"))}
        elif not (isinstance(source, dict) and source.get("kind") == "zero"):
            rule["source"] = reference(reading, source, where)
        rules[token] = rule
    return rules


def give_vocabulary(
    steps: dict[str, dict[str, Any]],
    vocabulary: Vocabulary,
    base: Reference | None,
    models: Models,
    dtype: str | None,
) -> dict[str, dict[str, Any]]:
    """Return steps that give every model its vocabulary, and then the steps, which take what those make."""
    taken = taken_by(steps)
    speaking = [models.name(base, dtype)] if base is not None else []
    speaking += [name for name in taken if name not in speaking]
    further = vocabulary.source if isinstance(vocabulary.source, Reference) else None
    tokens = {token: _named(rule, models, dtype) for token, rule in vocabulary.tokens.items()}
    named = [models.name(further, dtype)] if further is not None else []
    named += [name for rule in tokens.values() if (name := _model(rule["source"])) is not None]
    speaking += [name for name in dict.fromkeys(named) if name not in speaking]
    source = {"base": speaking[0], "union": "union"}.get(str(vocabulary.source)) or named[0]
    settings = {"tokens": tokens or None, "pad_to_multiple_of": vocabulary.multiple}
    made, new = {}, {}
    for name in dict.fromkeys(taken):
        new[name] = models.free(f"{name}-tokens")
        step = {"op": TOKENIZER, "models": speaking, "of": name, "source": source}
        made[new[name]] = step | {key: value for key, value in settings.items() if value is not None}
    return {**made, **{name: taking(step, new) for name, step in steps.items()}}


def taken_by(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the models that steps take and do not make, in order."""
    return [name for step in steps.values() for name in inputs_of(step) if name not in steps]


def inputs_of(step: Mapping[str, Any]) -> list[str]:
    """Return the models and steps that a step takes."""
    return [name for name in [step.get("base"), step.get("model"), *(step.get("models") or ())] if name]


def _model(source: Any) -> str | None:
    return source if isinstance(source, str) else source.get("model")


def _named(rule: Mapping[str, Any], models: Models, dtype: str | None) -> dict[str, Any]:
    """Return a rule with the names of models."""
    source = rule["source"]
    if isinstance(source, Reference):
        return {**rule, "source": models.name(source, dtype)}
    if isinstance(source.get("model"), Reference):
        source = {**source, "model": models.name(source["model"], dtype)}
    return {**rule, "source": source}


def taking(step: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """Return a step that takes other models than it did."""
    changed = dict(step)
    for key in ("base", "model"):
        if key in changed:
            changed[key] = new.get(changed[key], changed[key])
    models = changed.get("models")
    if isinstance(models, dict):
        changed["models"] = {new.get(name, name): params for name, params in models.items()}
    elif models:
        changed["models"] = [new.get(name, name) for name in models]
    if "layers" in changed:
        pairs = [layers.partition("[") for layers in changed["layers"]]
        changed["layers"] = [new.get(name, name) + mark + rest for name, mark, rest in pairs]
    return changed
