"""Markdown about ops and recipes, made from what they declare: for `surgery op NAME` and the docs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final

from pydantic import BaseModel

from surgery.ops import Op, Space, Split
from surgery.recipe import select
from surgery.recipe.model import Output, Recipe, Search, Source, Step
from surgery.recipe.schema import Schema, model_schema

_SPLITS: Final = {
    Split.ELEMENT: "element by element",
    Split.ROW: "row by row",
    Split.REDUCE: "element by element, after a pass over the tensor",
    Split.TENSOR: "a whole tensor at a time",
    Split.GROUP: "a group of tensors at a time",
    Split.MODEL: "element by element, after a pass over the model",
    Split.LAYOUT: "on names and shapes; what is only moved is copied byte by byte",
}


def op_reference(op: Op) -> str:
    """Return what one op does, takes and is called with, as Markdown."""
    parts = [f"## `{op.name}`", op.doc.strip()]
    parts += _table(op.params, "Parameters:")
    if op.each is not None:
        parts += _table(op.each, "Parameters for each model, written as `models: {NAME: {...}}`:")
    parts.append("\n".join(f"- {fact}" for fact in _facts(op)))
    return "\n\n".join(parts) + "\n"


def recipe_reference(ops: Iterable[Op]) -> str:
    """Return all keys of a recipe, the selectors, and all ops by family, as Markdown."""
    parts = ["# Recipes", _doc(Recipe)]
    parts += _table(Recipe, "")
    for key, model in (("models", Source), ("steps", Step), ("output", Output), ("search", Search)):
        parts += [f"## `{key}`", _doc(model), *_table(model, "")]
    doc = inspect.getdoc(select) or ""
    parts += ["## Selectors", doc.partition("\n\n")[2]]
    ops = sorted(ops, key=lambda op: op.name)
    for family, members in groupby(ops, key=lambda op: op.family):
        parts.append(f"# `{family}`")
        parts += [op_reference(op).strip() for op in members]
    return "\n\n".join(parts) + "\n"


def _doc(model: type[BaseModel]) -> str:
    return inspect.getdoc(model) or ""


def _facts(op: Op) -> list[str]:
    least, most = op.models
    models = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
    splits = " or ".join(_SPLITS[split] for split in op.splits)
    facts = [f"Models: {models}{', in the order written' if op.ordered and most != 1 else ''}"]
    facts.append(f"Base: {'not used' if op.base == 'none' else op.base}")
    facts.append(f"Works {splits}")
    if (op.takes, op.gives) != (Space.WEIGHT, Space.WEIGHT):
        facts.append(f"Takes {op.takes}, gives {op.gives}")
    if op.vectors == "skip":
        facts.append("Tensors of fewer than two dimensions are copied from the base or the first model")
    if op.cite:
        facts.append(f"Source: {op.cite}")
    return facts


def _table(model: type[BaseModel], head: str) -> list[str]:
    """Return a table of a model's fields under `head`, then of models inside it; nothing without fields."""
    schema, definitions = model_schema(model)
    if not schema.get("properties"):
        return []
    parts = [head] if head else []
    parts.append(_rows(schema, definitions))
    for name, inner in definitions.items():
        if inner.get("properties") and head:
            parts += [f"`{name}`: {inner.get('description', '')}".rstrip(": "), _rows(inner, definitions)]
    return parts


def _rows(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, one in schema["properties"].items():
        default = "required" if key in schema.get("required", []) else _default(one.get("default"))
        cells = (f"`{key}`", type_text(one, definitions), default, one.get("description", ""))
        rows.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    if value is None:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}`"


def type_text(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return what a value may be in words: `number in [0, 1], ramp or map from selectors`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return (
            f"`{name}`" if definitions[name].get("properties") else type_text(definitions[name], definitions)
        )
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        choices = [choice for choice in choices if choice != {"type": "null"}]
        texts = [type_text(choice, definitions) for choice in choices]
        if _is_scheduled(choices[:3]):
            texts[:3] = [f"{texts[0]}, ramp or map from selectors"]
        return " or ".join(dict.fromkeys(texts))
    kind = schema.get("type", "any")
    if kind == "array":
        return _list_text(schema, definitions)
    if kind == "object":
        inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
        return f"map to {type_text(inner, definitions)}" if isinstance(inner, dict) else "map"
    names = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}
    kinds = [kind] if isinstance(kind, str) else kind
    return " or ".join(names.get(one, one) for one in kinds) + _bounds(schema)


def _list_text(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(type_text(item, definitions) for item in schema["prefixItems"]) + "]"
    return f"list of {type_text(schema.get('items', {}), definitions)}"


def _is_scheduled(choices: list[Schema]) -> bool:
    """Return whether the choices are those of a number that may be scheduled: see `surgery.scalars`."""
    kinds = [choice.get("type") for choice in choices]
    return kinds == ["number", "array", "object"] and choices[1].get("items") == choices[0]


def _bounds(schema: Mapping[str, Any]) -> str:
    """Return the interval that a number must lie in, empty if there is none."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is None and high is None and above is None and below is None:
        return ""
    left = f"[{_number(low)}" if low is not None else f"({_number(above)}" if above is not None else "(-∞"
    right = f"{_number(high)}]" if high is not None else f"{_number(below)})" if below is not None else "∞)"
    return f" in {left}, {right}"


def _number(value: float) -> str:
    """Return a bound as people write it; large ones are powers of two."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 16 and value == 1 << power else f"{value:g}"
