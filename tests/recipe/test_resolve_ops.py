from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import PluginError
from surgery.ops import NoParams, Op, Params, op
from surgery.recipe.load import parse_recipe
from surgery.recipe.model import Recipe
from surgery.recipe.resolve_ops import ResolvedStep, resolve_steps
from surgery.recipe.select import ACCEPTED, Selection
from surgery.scalars import BySelector, Ramp, Scalar

Lines = Callable[[Callable[[], object]], list[str]]
Resolve = Callable[[str], dict[str, ResolvedStep]]


def test_a_step_gets_its_op_its_models_by_name_and_its_parameters(
    resolve: Resolve, toys: dict[str, Op]
) -> None:
    text = """\
  one:
    op: toy.mix
    base: base
    models: {c: {weight: [0.1, 0.9], density: 0.5}, a: 0.25, b:}
    scale: {"layers[0:2].mlp": 2, default: [0, 1]}
    rule: sign
    points: [1, 2]
    where: [mlp, "!layers[0]"]
    missing: skip
    tokenizer: accept
"""
    step = resolve(text)["one"]
    kind, each = toys["toy.mix"].params, toys["toy.mix"].each
    assert each is not None
    assert step == ResolvedStep(
        name="one",
        op=toys["toy.mix"],
        base="base",
        models=("a", "b", "c"),
        params=kind(
            scale=BySelector((("layers[0:2].mlp", 2.0), ("default", Ramp((0.0, 1.0))))),
            rule="sign",
            points=(1.0, 2.0),
        ),
        each=(each(weight=0.25), each(), each(weight=Ramp((0.1, 0.9)), density=0.5)),
        where=Selection(["mlp", "!layers[0]"]),
        missing="skip",
        tokenizer="accept",
        first="c",
    )


def test_models_keep_their_order_where_the_op_says_so(resolve: Resolve) -> None:
    steps = resolve(
        "  one: {op: toy.blend, models: [c, a], t: 0.5}\n"
        "  two: {op: toy.rank, models: {c: {importance: 3}, a: {importance: 1}}}\n"
        "  three: {op: toy.stack, models: [c, a], slices: [{model: a, layers: [0, 2]}]}\n"
    )
    assert [step.models for step in steps.values()] == [("c", "a"), ("a", "c"), ("c", "a")]
    assert [one.importance for one in steps["two"].each] == [1.0, 3.0]  # type: ignore[attr-defined]
    assert steps["one"].each == (NoParams(), NoParams())


def test_one_model_may_be_written_in_three_ways(resolve: Resolve) -> None:
    steps = resolve(
        "  one: {op: toy.copy, model: a}\n  two: {op: toy.copy, models: [a]}\n"
        "  three: {op: toy.copy, models: {a: {}}}\n  four: {op: toy.noise}\n"
    )
    assert [step.models for step in steps.values()] == [("a",), ("a",), ("a",), ()]
    assert [len(step.each) for step in steps.values()] == [1, 1, 1, 0]


def test_one_selector_is_a_selection_and_none_is_none(resolve: Resolve) -> None:
    steps = resolve("  one: {op: toy.copy, model: a, where: mlp}\n  two: {op: toy.copy, model: a}\n")
    assert steps["one"].where == Selection(["mlp"])
    assert steps["two"].where is None


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{op: ^mix, model: a}", ".op: no op is called `mix`; did you mean `toy.mix`?"),
        ("{op: ^toy.mx, model: a}", ".op: no op is called `toy.mx`; did you mean `toy.mix`?"),
        ("^{op: toy.mix, models: [a]}", ": missing key `base`, which `toy.mix` needs"),
        ("{op: toy.copy, model: a, ^base: b}", ".base: `toy.copy` takes no base; remove `base`"),
        (
            "{op: toy.stack, models: [a], slices: [{model: a, layers: [0, 2]}], ^where: mlp}",
            ".where: `toy.stack` arranges whole models; remove `where`",
        ),
        ("^{op: toy.copy}", ": missing key `model`; `toy.copy` takes one model"),
        ("^{op: toy.rank}", ": missing key `models`; `toy.rank` takes 2 to 3 models"),
        ("{op: toy.copy, ^models: [a, b]}", ".models: `toy.copy` takes one model, got 2"),
        ("{op: toy.copy, ^models: []}", ".models: `toy.copy` takes one model, got 0"),
        ("{op: toy.blend, t: 0, ^models: [a]}", ".models: `toy.blend` takes 2 models, got 1"),
        (
            "{op: toy.mix, base: a, ^model: b}",
            ".model: `toy.mix` takes 1 or more models; write `models: [b, ...]`",
        ),
        ("{op: toy.copy, model: a, ^models: [a]}", ".models: both `model` and `models`; keep one"),
        ("{op: toy.noise, ^models: [a, b]}", ".models: `toy.noise` takes 0 to 1 models, got 2"),
        (
            "{op: toy.copy, models: {a: ^0.5}}",
            ".models.a: `toy.copy` has no parameters for each model, got `0.5`; list the models",
        ),
        (
            "{op: toy.rank, models: {a: {importance: 1}, b: ^2}}",
            ".models.b: must be a mapping, got `2`; `toy.rank` has no `weight` for each model",
        ),
        ("{op: toy.rank, models: {a: {importance: 1}, ^b: }}", ".models.b: missing key `importance`"),
        ("^{op: toy.blend, models: [a, b]}", ": missing key `t`"),
        ("{op: toy.blend, models: [a, b], t: ^2}", ".t: must be at most 1, got `2`"),
        (
            "{op: toy.mix, base: a, models: {b: {^wieght: 1}}}",
            ".models.b.wieght: unknown key; did you mean `weight`?",
        ),
        (
            "{op: toy.mix, base: a, models: {b: {^scale: 1}}}",
            ".models.b.scale: `scale` is set for the whole step; write it beside `op`",
        ),
        (
            "{op: toy.mix, base: a, models: [b], ^density: 1}",
            ".density: `density` is set for each model; write `models: {NAME: {density: ...}}`",
        ),
        ("{op: toy.mix, base: a, models: [b], rule: ^size}", ".rule: must be `sign` or `mass`, got `size`"),
        ("{op: toy.mix, base: a, models: [b], step: ^0}", ".step: must be greater than 0, got `0`"),
        (
            "{op: toy.mix, base: a, models: [b], normalize: ^'true'}",
            ".normalize: must be `true` or `false`, got `true` in quotes; leave them out",
        ),
        (
            "{op: toy.mix, base: a, models: [b], ^modles: 1}",
            ".modles: unknown key; did you mean `models` or `model`?",
        ),
        (
            '{op: toy.mix, base: a, models: [b], scale: {^"layers[4": 1}}',
            f'.scale["layers[4"]: not a selector, got `layers[4`; {ACCEPTED}',
        ),
        (
            "{op: toy.mix, base: a, models: {b: {weight: {mlp: 1, ^'x y': [1]}}}}",
            f'.models.b.weight["x y"]: not a selector, got `x y`; {ACCEPTED}',
        ),
        (
            "{op: toy.stack, models: [a], slices: [{model: a, layers: [0, 2]}, ^{model: a}]}",
            ".slices[1]: missing key `layers`",
        ),
    ],
)
def test_a_step_that_does_not_fit_its_op_is_refused(
    step: str, message: str, resolve: Resolve, lines: Lines
) -> None:
    """The mark `^` stands before the place that the message names; before a whole step it is the step's key."""
    column = 3 if step[0] == "^" else step.index("^") + len("  s: ") + 1
    (found,) = lines(lambda: resolve(f"  s: {step.replace('^', '')}\n"))
    assert found == f"r.yaml:5:{column}: steps.s{message}"


def test_findings_of_all_steps_come_at_once_in_the_order_of_the_text(resolve: Resolve, lines: Lines) -> None:
    text = """\
  one: {op: toy.mix, models: {a: {density: 2}}, elect: size, nromalize: true}
  two: {op: toy.cpy, model: a}
  three: {op: toy.copy, base: a, x: 1}
"""
    assert lines(lambda: resolve(text)) == [
        "r.yaml:5:3: steps.one: missing key `base`, which `toy.mix` needs",
        "r.yaml:5:44: steps.one.models.a.density: must be at most 1, got `2`",
        "r.yaml:5:56: steps.one.elect: must be `sum` or `count`, got `size`",
        "r.yaml:5:62: steps.one.nromalize: unknown key; did you mean `normalize`?",
        "r.yaml:6:13: steps.two.op: no op is called `toy.cpy`; did you mean `toy.copy` or `toy.stack`?",
        "r.yaml:7:3: steps.three: missing key `model`; `toy.copy` takes one model",
        "r.yaml:7:25: steps.three.base: `toy.copy` takes no base; remove `base`",
        "r.yaml:7:34: steps.three.x: unknown key; known: `base`, `calibration`, `missing`, `model`, `models`, `op`, "
        "`tokenizer`, `where`",
    ]


def recipe(steps: str) -> Recipe:
    return parse_recipe(f"surgery: 1\nmodels: {{a: a}}\noutput: {{model: a}}\nsteps:\n{steps}", "r.yaml")


def test_ops_may_be_looked_up_one_by_one(toys: dict[str, Op], lines: Lines) -> None:
    asked: list[str] = []

    def lookup(name: str) -> Op | None:
        asked.append(name)
        if name.startswith("gone"):
            raise PluginError("plugin gone failed to import: no module named x")
        if name.startswith("lost"):
            raise KeyError(name)
        return toys.get(name)

    steps = recipe("  s: {op: toy.copy, model: a}\n")
    assert resolve_steps(steps, lookup)["s"].op is toys["toy.copy"]
    steps = recipe(
        "".join(
            f"  s{i}: {{op: {name}, model: a}}\n" for i, name in enumerate(["gone.x", "lost.x", "toy.cop"])
        )
    )
    assert lines(lambda: resolve_steps(steps, lookup, lambda: toys)) == [
        "r.yaml:5:12: steps.s0.op: plugin gone failed to import: no module named x",
        "r.yaml:6:12: steps.s1.op: no op is called `lost.x`; known: `toy.blend`, `toy.copy`, `toy.mix`, `toy.noise`, "
        "`toy.rank`, `toy.stack`",
        "r.yaml:7:12: steps.s2.op: no op is called `toy.cop`; did you mean `toy.copy` or `toy.stack` or `toy.noise`?",
    ]
    assert asked == ["toy.copy", "gone.x", "lost.x", "toy.cop"]


def test_names_to_suggest_are_asked_for_only_when_an_op_is_unknown(toys: dict[str, Op]) -> None:
    def known() -> list[str]:
        raise AssertionError

    assert resolve_steps(recipe("  s: {op: toy.copy, model: a}\n"), toys.get, known)


def test_an_op_whose_parameter_hides_a_key_of_the_step_is_a_plugins_fault() -> None:
    class Hiding(Params):
        where: str = ""

    @op("bad.op", params=Hiding)
    def bad(x: Any, params: Any) -> Any:
        """Hide."""

    with pytest.raises(
        PluginError, match=r"^op `bad.op`: parameter `where` has the name of a step's key; rename it$"
    ):
        resolve_steps(recipe("  s: {op: bad.op, models: [a]}\n"), {"bad.op": bad})


def test_many_bad_steps_are_not_all_looked_at(toys: dict[str, Op], lines: Lines) -> None:
    steps = "".join(f"  s{i}: {{op: toy.copy}}\n" for i in range(300))
    assert len(lines(lambda: resolve_steps(recipe(steps), toys))) == 101


class Numbers(Params):
    value: float
    scale: Scalar = 1.0


@op("num.one", params=Numbers, models=(0, None))
def one(x: Any, params: Any) -> Any:
    """Hold numbers."""


@given(st.floats(allow_nan=False, allow_infinity=False), st.lists(st.floats(-1e300, 1e300), min_size=1))
def test_numbers_reach_the_op_exactly_as_they_are_written(value: float, points: list[float]) -> None:
    text = f"  s: {{op: num.one, value: {value!r}, scale: {json.dumps(points)}}}\n"
    params = resolve_steps(recipe(text), {"num.one": one})["s"].params
    assert params == Numbers(value=value, scale=Ramp(tuple(points)))  # type: ignore[arg-type]


def test_a_list_where_models_need_numbers_says_how_to_write_them(resolve: Resolve, lines: Lines) -> None:
    assert lines(lambda: resolve("  s: {op: toy.rank, models: [a, b]}\n")) == [
        "r.yaml:5:30: steps.s.models[0]: missing key `importance`; "
        "write `models: {a: {importance: ...}}` in place of a list",
        "r.yaml:5:33: steps.s.models[1]: missing key `importance`; "
        "write `models: {b: {importance: ...}}` in place of a list",
    ]
