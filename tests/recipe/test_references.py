from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe.document import dotted
from surgery.recipe.load import parse_recipe
from surgery.recipe.references import reference_problems, unused


def problems(**parts: Any) -> list[str]:
    data = {"models": {"base": "./base", "code": "./code"}, "output": {"model": "base"}} | parts
    return [f"{dotted(one.path)}: {one.what}" for one in reference_problems(data, Path("there"))]


def steps(**takes: list[str]) -> dict[str, Any]:
    return {name: {"op": "x.y", "models": models} for name, models in takes.items()}


CIRCLE = "steps go round in a circle: {}; let one of them take something else"


@pytest.mark.parametrize(
    ("takes", "found"),
    [
        ({"a": ["base"], "b": ["a", "code"], "c": ["a", "b"]}, []),
        ({"a": ["a"]}, ["steps.a: " + CIRCLE.format("`a` takes `a`")]),
        (
            {"a": ["base", "c"], "b": ["a"], "c": ["b"]},
            ["steps.a: " + CIRCLE.format("`a` takes `c`, `c` takes `b`, `b` takes `a`")],
        ),
        (
            {"z": ["y"], "y": ["z"], "b": ["z", "b"]},
            [
                "steps.z: " + CIRCLE.format("`z` takes `y`, `y` takes `z`"),
                "steps.b: " + CIRCLE.format("`b` takes `b`"),
            ],
        ),
    ],
)
def test_circles_are_named_in_order_from_their_first_step(
    takes: dict[str, list[str]], found: list[str]
) -> None:
    assert sorted(problems(steps=steps(**takes))) == sorted(found)


def test_a_long_circle_is_cut_short() -> None:
    ring = {f"s{i}": [f"s{(i + 1) % 12}"] for i in range(12)}
    (found,) = problems(steps=steps(**ring))
    assert found.endswith("`s9` takes `s10`, ... (12 in all); let one of them take something else")


def test_a_base_and_a_single_model_count_as_taken() -> None:
    circle = {"a": {"op": "x.y", "base": "b"}, "b": {"op": "x.y", "model": "a"}}
    assert problems(steps=circle) == ["steps.a: " + CIRCLE.format("`a` takes `b`, `b` takes `a`")]


def test_unknown_names_are_found_wherever_they_are_written() -> None:
    step = {"op": "x.y", "base": "bse", "model": "cod", "models": {"nothing": None}}
    assert problems(steps={"mix": step}, outputs={"x": {"model": "mx", "tokenizer": "mix"}}, output=None) == [
        "steps.mix.base: no model or step is called `bse`; did you mean `base`?",
        "steps.mix.model: no model or step is called `cod`; did you mean `code`?",
        "steps.mix.models.nothing: no model or step is called `nothing`; known: `base`, `code`, `mix`",
        "outputs.x.model: no model or step is called `mx`; did you mean `mix`?",
        "outputs.x.tokenizer: no model is called `mix`; known: `base`, `code`",
    ]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (
            "./out",
            "out/",
            "outputs.y.to: writes where `outputs.x` does, got `out/`; give each its own folder",
        ),
        (
            "hub:me/x",
            "hub:me/x",
            "outputs.y.to: writes where `outputs.x` does, got `hub:me/x`; give each its own folder",
        ),
        ("out", "out/lean", "outputs.y.to: lies inside the folder of `outputs.x`; give each its own folder"),
        (
            "out/a/../b/c",
            "out",
            "outputs.x.to: lies inside the folder of `outputs.y`; give each its own folder",
        ),
        (".", "out", "outputs.y.to: lies inside the folder of `outputs.x`; give each its own folder"),
        (
            "out",
            "../there/out",
            "outputs.y.to: writes where `outputs.x` does, got `../there/out`; give each its own folder",
        ),
        ("out", "output", None),
        ("hub:me/x", "hub:me/x/y", None),
        ("out", None, None),
        (None, None, None),
    ],
)
def test_outputs_have_folders_of_their_own(first: str | None, second: str | None, found: str | None) -> None:
    outputs = {"x": {"model": "base", "to": first}, "y": {"model": "base", "to": second}}
    assert problems(output=None, outputs=outputs) == ([found] if found else [])


def test_one_kind_of_output_is_wanted() -> None:
    assert problems(output=None) == [": missing key `output`"]
    assert problems(outputs={}) == ["outputs: both `output` and `outputs`; keep one"]
    assert problems(output=None, outputs={"x": {"model": "base"}}) == []


def test_model_sources_may_name_the_same_thing_and_models_may_be_taken_often() -> None:
    models = {"base": "./base", "code": "./base"}
    assert problems(models=models, steps=steps(a=["base", "code"], b=["base"])) == []


def warned(text: str) -> list[str]:
    head = "surgery: 1\nmodels: {base: ./base, code: ./code}\n"
    return [str(finding) for finding in parse_recipe(head + text, "r.yaml").warnings]


def test_steps_that_no_output_needs_are_warned_of() -> None:
    text = """\
output: {model: b, tokenizer: code}
steps:
  lost: {op: x.y, model: base}
  a: {op: x.y, model: base}
  more: {op: x.y, models: [lost, a]}
  b: {op: x.y, model: a}
"""
    what = "no output needs this step, so that it is not computed; remove it, or write it with `outputs:`"
    assert warned(text) == [f"r.yaml:5:3: steps.lost: {what}", f"r.yaml:7:3: steps.more: {what}"]


def test_models_that_nothing_names_are_warned_of() -> None:
    what = "no step and no output names this model; remove it, or name it in a step"
    assert warned("output: {model: base}\n") == [f"r.yaml:2:24: models.code: {what}"]


names = st.sampled_from(["a", "b", "c", "base", "x"])
junk = st.none() | st.integers() | names | st.lists(names | st.integers(), max_size=3)
takes = st.dictionaries(st.sampled_from(["base", "model", "models", "op"]), junk, max_size=3)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "models": junk | st.dictionaries(names, junk),
            "steps": junk | st.dictionaries(names, junk | takes),
            "output": junk | st.dictionaries(st.sampled_from(["model", "to", "tokenizer"]), junk),
            "outputs": junk | st.dictionaries(names, st.dictionaries(st.sampled_from(["model", "to"]), junk)),
        },
    )
)
def test_data_of_any_type_is_passed_over_without_an_error(data: dict[str, Any]) -> None:
    for problem in [*reference_problems(data, Path()), *unused(data)]:
        assert problem.what


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=8, max_size=8))
def test_circles_are_reported_exactly_when_there_are_some(links: list[list[int]]) -> None:
    graph = {f"s{i}": [f"s{j}" for j in dict.fromkeys(taken)] for i, taken in enumerate(links)}
    reachable = {name: set(taken) for name, taken in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reachable[name]:
                reachable[name] |= reachable[middle]
    circular = any(name in reachable[name] for name in graph)
    assert bool(problems(steps=steps(**graph))) == circular
