from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from surgery.errors import RecipeError
from surgery.ops import Op
from surgery.recipe.load import parse_recipe
from surgery.recipe.resolve_ops import resolve_steps
from surgery.recipe.schema import recipe_schema
from surgery.recipe.yaml import read_yaml

HEAD = "surgery: 1\nmodels: {a: ./a, b: {source: ./b}, base: org/base@1}\noutput: {model: a}\n"

GOOD = [
    HEAD,
    HEAD + "seed: 7\non_nonfinite: keep\non_int: first\nsteps: {}\n",
    HEAD.replace("{model: a}", "{model: a, to: ./out, dtype: float16, shard_size: 5GB, tokenizer: base}"),
    HEAD.replace("{model: a}", "{model: a, shard_size: 1000, to: null}"),
    HEAD.replace("output: {", "outputs: {x: {") + "  }\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a, b]}}\n",
    HEAD
    + "steps: {s: {op: toy.mix, base: base, models: {a: 0.5, b: , base: {weight: [0, 1], density: 0.5}}}}\n",
    HEAD
    + "steps: {s: {op: toy.mix, base: base, models: [a], scale: {mlp: 1, default: [0, 1]}, rule: sign}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], where: [mlp, '!norm'], missing: skip}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], points: [0, 1], tokenizer: accept}}\n",
    HEAD + "steps: {s: {op: toy.blend, models: [b, a], t: {mlp: 0.5}}}\n",
    HEAD + "steps: {s: {op: toy.blend, base: base, models: {b: {}, a: }, t: 0}}\n",
    HEAD + "steps: {s: {op: toy.copy, model: a}}\n",
    HEAD + "steps: {s: {op: toy.copy, models: [a]}}\n",
    HEAD + "steps: {s: {op: toy.noise}}\n",
    HEAD + "steps: {s: {op: toy.rank, models: {a: {importance: 1}, b: {importance: 2}}}}\n",
    HEAD + "steps: {s: {op: toy.stack, models: [a], slices: [{model: a, layers: [0, 2]}]}}\n",
]

BAD = [
    HEAD.replace("surgery: 1", "surgery: 2"),
    HEAD.replace("surgery: 1\n", ""),
    HEAD.replace("output: {model: a}", ""),
    HEAD + "outputs: {x: {model: a}}\n",
    HEAD + "sede: 1\n",
    HEAD + "seed: -1\n",
    HEAD + "seed: 1.5\n",
    HEAD.replace("./a", "''"),
    HEAD.replace("./a", "{sorce: x}"),
    HEAD.replace("./a", "{source: x, adapter: [y]}"),
    HEAD.replace("a:", "1a:"),
    HEAD.replace("{model: a}", "{model: a, dtype: int8}"),
    HEAD.replace("{model: a}", "{model: a, shard_size: [1]}"),
    HEAD + "steps: {s: {models: [a]}}\n",
    HEAD + "steps: {s: {op: toy.mx, models: [a]}}\n",
    HEAD + "steps: {s: {op: toy.mix, models: [a]}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, model: a}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: []}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a, a]}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: {a: x}}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: {a: {density: 2}}}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: {a: {wieght: 2}}}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], elect: size}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], step: 0}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], scale: [x]}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], points: [1]}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], where: []}}\n",
    HEAD + "steps: {s: {op: toy.mix, base: base, models: [a], missing: never}}\n",
    HEAD + "steps: {s: {op: toy.blend, models: [a, b]}}\n",
    HEAD + "steps: {s: {op: toy.blend, models: [a, b, base], t: 0}}\n",
    HEAD + "steps: {s: {op: toy.copy, model: a, base: b}}\n",
    HEAD + "steps: {s: {op: toy.copy, model: a, models: [b]}}\n",
    HEAD + "steps: {s: {op: toy.copy, models: {a: 0.5}}}\n",
    HEAD + "steps: {s: {op: toy.copy}}\n",
    HEAD + "steps: {s: {op: toy.noise, models: [a, b]}}\n",
    HEAD + "steps: {s: {op: toy.rank, models: [a, b]}}\n",
    HEAD + "steps: {s: {op: toy.rank, models: {a: 1, b: 2}}}\n",
    HEAD + "steps: {s: {op: toy.stack, models: [a], slices: [{model: a, layer: [0, 2]}]}}\n",
]


@pytest.fixture(scope="module")
def schema(toys: dict[str, Op]) -> dict[str, Any]:
    return recipe_schema(toys.values())


def is_read(text: str, toys: dict[str, Op]) -> bool:
    try:
        resolve_steps(parse_recipe(text), toys)
    except RecipeError:
        return False
    return True


@pytest.mark.parametrize("text", GOOD)
def test_what_is_read_is_valid(text: str, schema: dict[str, Any], toys: dict[str, Op]) -> None:
    assert is_read(text, toys)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(read_yaml(text).data)] == []


@pytest.mark.parametrize("text", BAD)
def test_what_is_refused_is_invalid(text: str, schema: dict[str, Any], toys: dict[str, Op]) -> None:
    assert not is_read(text, toys)
    assert not Draft202012Validator(schema).is_valid(read_yaml(text).data)


def test_the_schema_is_a_schema_and_says_which_dialect(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_without_ops_still_reads_recipes_without_steps() -> None:
    validator = Draft202012Validator(recipe_schema([]))
    assert validator.is_valid(read_yaml(HEAD).data)
    assert not validator.is_valid({"surgery": 1})


def test_the_order_of_the_ops_does_not_change_the_text(schema: dict[str, Any], toys: dict[str, Op]) -> None:
    assert json.dumps(recipe_schema(reversed(toys.values()))) == json.dumps(schema)


def test_op_names_and_keys_carry_their_descriptions(schema: dict[str, Any]) -> None:
    ops = schema["$defs"]["Step"]["properties"]["op"]["anyOf"]
    assert ops[2] == {"const": "toy.mix", "description": "Mix models."}
    mix = schema["$defs"]["toy.mix"]
    assert mix["properties"]["normalize"] == {
        "default": True,
        "description": "Divide by the sum of the weights.",
        "type": "boolean",
    }
    assert mix["properties"]["where"]["description"].startswith("Which tensors the op works on; ")
    assert mix["required"] == ["base", "op"]
    assert (
        schema["properties"]["seed"]["description"]
        == "What random numbers depend on, besides op, tensor and element."
    )


def test_every_reference_is_defined(schema: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [one for inner in node for one in references(inner)]
        if not isinstance(node, dict):
            return []
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [one for inner in node.values() for one in references(inner)]

    found = set(references(schema))
    assert "#/$defs/toy.stack.Piece" in found
    assert {one.removeprefix("#/$defs/") for one in found} <= set(schema["$defs"])
