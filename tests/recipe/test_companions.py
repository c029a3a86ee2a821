"""Names of what stands beside models: looked up, part of circles, and no reason to call anything unused."""

from __future__ import annotations

import pytest

from surgery.companion import Companion
from surgery.errors import RecipeError
from surgery.ops import Params, op
from surgery.recipe.load import parse_recipe
from surgery.recipe.resolve_ops import resolve_steps


class Each(Params):
    """Parameters of each model."""

    weight: float = 1.0
    fisher: str | None = None


@op(
    "toy.near",
    each=Each,
    base="optional",
    companions={"fisher": Companion(lambda signature, p: signature.first.shape)},
)
def near(x, p):
    """Do nothing."""


HEAD = "surgery: 1\nmodels: {a: ./a, b: ./b, f: ./f}\nsteps:\n"


def recipe(steps, output="m"):
    return parse_recipe(f"{HEAD}{steps}\noutput: {{model: {output}}}\n")


def resolve(steps):
    return resolve_steps(recipe(steps), {"toy.near": near})


def refusal(steps):
    with pytest.raises(RecipeError) as error:
        resolve(steps)
    return str(error.value)


def test_companions_run_in_parallel_with_the_models():
    step = resolve("  m: {op: toy.near, base: a, models: {b: {fisher: f}, a: {weight: 2}}}")["m"]
    assert step.models == ("a", "b")
    assert step.companions == {"fisher": (None, "f")}


def test_what_a_step_reads_is_told_once_base_first_and_companions_last():
    step = resolve("  m: {op: toy.near, base: a, models: {b: {fisher: f}, a: {fisher: f}}}")["m"]
    assert step.inputs == ("a", "b", "f")


def test_a_name_that_nothing_has_is_refused_where_it_stands():
    assert refusal("  m: {op: toy.near, models: {a: {fisher: ff}}}") == (
        "<recipe>:4:42: steps.m.models.a.fisher: no model or step is called `ff`; did you mean `f`?"
    )


def test_steps_that_go_round_in_a_circle_by_their_companions_are_refused():
    steps = "  x: {op: toy.near, models: {a: {fisher: m}}}\n  m: {op: toy.near, models: {x: {fisher: f}}}"
    assert refusal(steps) == (
        "<recipe>:4:3: steps.x: steps go round in a circle: `x` takes `m`, `m` takes `x`; "
        "let one of them take something else"
    )


def test_a_step_beside_its_own_result_is_refused():
    assert "circle: `m` takes `m`" in refusal("  m: {op: toy.near, models: {a: {fisher: m}}}")


def test_models_and_steps_that_only_stand_beside_others_are_used():
    made = recipe(
        "  s: {op: toy.near, models: [b]}\n  m: {op: toy.near, models: {a: {fisher: s}, b: {fisher: f}}}"
    )
    assert made.warnings == ()


def test_others_are_still_called_unused():
    made = recipe("  s: {op: toy.near, models: [b]}\n  m: {op: toy.near, models: {a: {weight: 1}}}")
    assert [warning.path for warning in made.warnings] == ["models.f", "steps.s"]


def test_a_text_for_an_op_that_reads_none_is_refused():
    assert refusal("  m: {op: toy.near, models: [a], calibration: {text: a.txt}}") == (
        "<recipe>:4:34: steps.m.calibration: `toy.near` looks at no activations; remove `calibration`"
    )
