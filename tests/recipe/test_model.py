from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from surgery.recipe.document import Problem
from surgery.recipe.load import parse_recipe
from surgery.recipe.model import STEP_KEYS, Output, Recipe, Step
from surgery.tensors import STORED_FLOATS

TEXT = """\
surgery: 1
models:
  base: ./base
  code: {source: org/code@abc}
steps:
  mix:
    op: merge.ties
    base: base
    models: {code: {weight: 0.5}, base: null}
    density: [0.1, 0.9]
    where: mlp
  twice: {op: stitch.layers, models: [mix, base], model_config: 1, params: 2}
output: {model: twice, to: ./out, dtype: bfloat16, shard_size: 1.5 GiB, tokenizer: base}
"""


def test_a_recipe_says_what_its_text_says() -> None:
    recipe = parse_recipe(TEXT, "r.yaml", Path("there"))
    assert {name: source.source for name, source in recipe.models.items()} == {
        "base": "./base",
        "code": "org/code@abc",
    }
    assert recipe.steps["mix"] == Step(
        op="merge.ties",
        base="base",
        models={"code": {"weight": 0.5}, "base": None},
        where="mlp",
        density=[0.1, 0.9],  # type: ignore[call-arg]
    )
    assert recipe.output == Output(
        model="twice", to="./out", dtype="bfloat16", shard_size=1610612736, tokenizer="base"
    )
    assert (recipe.file, recipe.folder, recipe.text) == ("r.yaml", Path("there"), TEXT)
    assert recipe.warnings == ()


def test_what_is_left_out_has_its_default() -> None:
    recipe = parse_recipe("surgery: 1\nmodels: {a: ./a}\noutput: {model: a}\n")
    assert (recipe.steps, recipe.outputs, recipe.seed) == ({}, None, 0)
    assert (recipe.on_nonfinite, recipe.on_int) == ("error", "error")
    assert (recipe.file, recipe.folder) == ("<recipe>", Path())
    assert recipe.output == Output(model="a", to=None, dtype=None, shard_size=5 * 10**9, tokenizer=None)
    step = Step(op="x.y")
    assert (step.base, step.model, step.models, step.where, step.tokenizer) == (None, None, None, None, None)
    assert step.missing == "error"


def test_a_steps_parameters_are_what_is_no_common_key() -> None:
    steps = parse_recipe(TEXT).steps
    assert steps["mix"].params == {"density": [0.1, 0.9]}
    assert steps["twice"].params == {"model_config": 1, "params": 2}
    assert STEP_KEYS == ("op", "base", "model", "models", "where", "missing", "tokenizer", "calibration")


def test_a_steps_inputs_are_its_base_and_its_models_each_once() -> None:
    steps = parse_recipe(TEXT).steps
    assert steps["mix"].inputs == ("base", "code")
    assert steps["twice"].inputs == ("mix", "base")
    assert Step(op="x.y", model="a").inputs == ("a",)
    assert Step(op="x.y").inputs == ()


def test_outputs_come_with_their_paths() -> None:
    assert list(parse_recipe(TEXT).written) == [("output",)]
    many = parse_recipe(
        "surgery: 1\nmodels: {a: ./a}\noutputs: {x: {model: a, to: x}, y: {model: a, to: y}}\n"
    )
    assert {path: output.to for path, output in many.written.items()} == {
        ("outputs", "x"): "x",
        ("outputs", "y"): "y",
    }


def test_later_stages_find_places_by_path() -> None:
    recipe = parse_recipe(TEXT, "r.yaml")
    assert recipe.where(("steps", "mix", "density", 1)) == "r.yaml:10:20"
    assert recipe.where(("steps", "mix", "models", "code"), key=True) == "r.yaml:9:14"
    assert recipe.where(("steps", "mix", "scope")) == "r.yaml:7:5"
    assert str(recipe.finding(("steps", "mix"), "bad", key=True)) == "r.yaml:6:3: steps.mix: bad"
    problems = [Problem(("steps", "twice", "op"), "late"), Problem(("models",), "early")]
    assert [finding.what for finding in recipe.findings(problems)] == ["early", "late"]


def test_nothing_in_a_recipe_changes() -> None:
    recipe = parse_recipe(TEXT)
    for one, key in ((recipe, "seed"), (recipe.steps["mix"], "op"), (recipe.output, "model")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(one, key, "x")


def test_the_dtypes_of_an_output_are_those_that_can_be_stored() -> None:
    assert get_args(get_args(Output.model_fields["dtype"].annotation)[0]) == tuple(STORED_FLOATS)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", True), ("seed", 1.0), ("seed", "1"), ("seed", 1 << 63), ("output", "a")],
)
def test_types_are_not_converted(key: str, value: Any) -> None:
    recipe = {"surgery": 1, "models": {"a": "./a"}, "output": {"model": "a"}}
    assert Recipe.model_validate(recipe)
    with pytest.raises(ValidationError):
        Recipe.model_validate(recipe | {key: value})
