"""The JSON Schema of recipes, so that an editor completes op names and parameters and underlines mistakes.

Made from the pydantic models and the ops' declarations: what a step may say depends on the op that it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema

from surgery.ops import Op
from surgery.recipe.model import STEP_KEYS, Recipe, Step

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_INPUTS: Final = ("op", "base", "model", "models")

Schema = dict[str, Any]


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which editors would show in place of the keys."""

    def field_title_should_be_set(self, schema: CoreSchema | Any) -> bool:
        return False


def model_schema(model: type[BaseModel], prefix: str = "") -> tuple[Schema, dict[str, Schema]]:
    """Return a model's schema and the definitions that it refers to, their names begun with `prefix`."""
    template = f"#/$defs/{prefix}{{model}}"
    schema = model.model_json_schema(ref_template=template, schema_generator=_Untitled)
    definitions = {prefix + name: one for name, one in schema.pop("$defs", {}).items()}
    for one in (schema, *definitions.values()):
        one.pop("title", None)
        _unwrap(one)
    return schema, definitions


def _unwrap(schema: Schema) -> None:
    """Write descriptions on one line."""
    for one in (schema, *schema.get("properties", {}).values()):
        if "description" in one:
            one["description"] = " ".join(one["description"].split())


def recipe_schema(ops: Iterable[Op]) -> Schema:
    """Return the JSON Schema (draft 2020-12) of recipes that use `ops`; the same ops give the same text."""
    ops = sorted(ops, key=lambda op: op.name)
    schema, definitions = model_schema(Recipe)
    for name, key in (("Source", "source"), ("Chosen", "name")):
        definitions[name] = _short(definitions[name], key)
    definitions["Step"] = _step(ops)
    for op in ops:
        definitions |= _op(op)
    _not_null(schema)
    for key in ("models", "steps", "outputs"):
        schema["properties"][key]["additionalProperties"] = False
    schema["oneOf"] = [{"required": ["output"]}, {"required": ["outputs"]}]
    head = {"$schema": DIALECT, "title": "Recipe"}
    return head | schema | {"$defs": dict(sorted(definitions.items()))}


def _not_null(schema: Schema) -> None:
    """Take `null` away from `output` and `outputs`: one of them must say something."""
    for key in ("output", "outputs"):
        one = schema["properties"][key]
        kinds = [kind for kind in one.pop("anyOf") if kind != {"type": "null"}]
        one.pop("default")
        schema["properties"][key] = kinds[0] | one


def _short(schema: Schema, key: str) -> Schema:
    """Let what is written under `key` stand in place of the mapping: a source, a sampler's name."""
    text = schema["properties"][key]
    return {"description": schema.pop("description"), "anyOf": [text, schema]}


def _step(ops: list[Op]) -> Schema:
    names = [{"const": op.name, "description": op.summary} for op in ops]
    cases = [
        {
            "if": {"properties": {"op": {"const": op.name}}, "required": ["op"]},
            "then": {"$ref": f"#/$defs/{op.name}"},
        }
        for op in ops
    ]
    head = {"type": "object", "description": Step.__doc__, "required": ["op"]}
    return head | {"properties": {"op": {"anyOf": names} if names else {"type": "string"}}, "allOf": cases}


def _op(op: Op) -> dict[str, Schema]:
    """Return the definitions of the steps that use an op: itself, and what its parameters refer to."""
    params, definitions = model_schema(op.params, f"{op.name}.")
    common, _ = model_schema(Step)
    properties = {"op": {"const": op.name, "description": op.summary}}
    required = ["op", *params.get("required", [])]
    if op.base != "none":
        properties["base"] = {"type": "string", "description": common["properties"]["base"]["description"]}
    if op.base == "required":
        required.append("base")
    each: Schema = {}
    if op.each is not None:
        each, more = model_schema(op.each, f"{op.name}.each.")
        definitions |= more
    properties |= _models(op, each, common["properties"])
    properties |= {key: common["properties"][key] for key in STEP_KEYS if key not in _INPUTS}
    properties |= params.get("properties", {})
    schema: Schema = {"type": "object", "description": op.summary, "properties": properties}
    schema |= {"required": sorted(required), "additionalProperties": False}
    if op.models[0] > 0:
        keys = ("model", "models") if op.takes_one else ("models",)
        schema["oneOf"] = [{"required": [key]} for key in keys]
    return {op.name: schema} | definitions


def _models(op: Op, each: Schema, common: dict[str, Schema]) -> dict[str, Schema]:
    """Return the schemas of `model` and `models`, as far as the op takes them."""
    least, most = op.models
    limits = {"min": least} | ({} if most is None else {"max": most})
    listed = {f"{key}Items": count for key, count in limits.items()}
    mapped = {f"{key}Properties": count for key, count in limits.items()}
    kinds: list[Schema] = [{"type": "object", **mapped, "additionalProperties": _each(each)}]
    if not each.get("required"):
        kinds.insert(0, {"type": "array", "items": {"type": "string"}, "uniqueItems": True, **listed})
    models = {"models": {"description": common["models"]["description"], "anyOf": kinds}}
    if not op.takes_one:
        return models
    return {"model": {"type": "string", "description": common["model"]["description"]}} | models


def _each(each: Schema) -> Schema:
    """Return the schema of one model's parameters: none, a number for its weight, or a mapping."""
    if not each:
        return {"anyOf": [{"type": "null"}, {"type": "object", "maxProperties": 0}]}
    kinds: list[Schema] = [each]
    if "weight" in each["properties"]:
        kinds.append({"allOf": [{"type": "number"}, each["properties"]["weight"]]})
    if not each.get("required"):
        kinds.append({"type": "null"})
    return {"anyOf": kinds}
