from __future__ import annotations

import pytest

from surgery.errors import RecipeError
from surgery.recipe.yaml import read_yaml
from surgery.search.holes import read_holes
from surgery.trials import Gene


def holes(text: str):
    return read_holes(read_yaml(f"steps:\n  m: {{{text}}}\n", "r.yaml"))


def refused(text: str) -> list[str]:
    with pytest.raises(RecipeError) as error:
        holes(text)
    return str(error.value).splitlines()


def test_a_list_is_a_range():
    (hole,) = holes("w: ${search: [0, 1.5]}")
    assert hole.paths == (("steps", "m", "w"),)
    assert hole.genes == (Gene("steps.m.w", 0.0, 1.5),)
    assert hole.value([0.7]) == 0.7


def test_points_over_depth_become_a_ramp():
    (hole,) = holes("w: ${search: {range: [0, 1], by: layers(3)}}")
    assert [gene.name for gene in hole.genes] == ["steps.m.w[0]", "steps.m.w[1]", "steps.m.w[2]"]
    assert hole.value([0.1, 0.2, 0.3]) == [0.1, 0.2, 0.3]


def test_selectors_become_a_map():
    (hole,) = holes("w: ${search: {choices: [1, 2], by: [mlp, default]}}")
    assert [gene.name for gene in hole.genes] == ['steps.m.w["mlp"]', 'steps.m.w["default"]']
    assert hole.genes[0].choices == (1, 2)
    assert hole.value([2, 1]) == {"mlp": 2, "default": 1}


def test_both_become_a_map_to_ramps():
    (hole,) = holes("w: ${search: {range: [0, 1], by: {layers: 2, roles: [mlp, default]}}}")
    assert len(hole.genes) == 4
    assert hole.value([0.1, 0.2, 0.3, 0.4]) == {"mlp": [0.1, 0.2], "default": [0.3, 0.4]}


def test_an_alias_is_the_same_hole():
    (hole,) = holes("a: &w ${search: [0, 1]}, b: *w")
    assert hole.paths == (("steps", "m", "a"), ("steps", "m", "b"))


def test_holes_come_in_the_order_of_the_text():
    assert [hole.genes[0].name for hole in holes("b: ${search: [0, 1]}, a: ${search: [0, 1]}")] == [
        "steps.m.b",
        "steps.m.a",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "w: ${search}",
            "steps.m.w: a hole is `${search: [low, high]}` or `${search: {choices: [...]}}`, got `null`",
        ),
        ("w: ${search: [1, 0]}", "steps.m.w.search: the range must begin below its end, got [1, 0]"),
        ("w: ${search: [0, a]}", "steps.m.w.search[1]: must be a number, got `a`"),
        ("w: ${search: [0]}", "steps.m.w.search: must have at least 2 entries, got 1"),
        ("w: ${search: {rang: [0, 1]}}", "steps.m.w.search.rang: unknown key; did you mean `range`?"),
        (
            "w: ${search: {range: [0, 1], choices: [1, 2]}}",
            "steps.m.w.search: must say either `range: [low, high]` or `choices: [...]`",
        ),
        (
            "w: ${search: {range: [0, 1], log: true}}",
            "steps.m.w.search: a range with `log: true` must begin above 0, got [0, 1]",
        ),
        (
            "w: ${search: {choices: [1, 2], log: true}}",
            "steps.m.w.search: `log` belongs to a range, not to choices; remove it",
        ),
        (
            "w: ${search: {range: [0, 1], by: rows(2)}}",
            "steps.m.w.search.by: must be `layers(4)`, a list of selectors, or "
            "`{layers: 4, roles: [...]}`, got `rows(2)`",
        ),
        (
            "w: ${search: {range: [0, 1], by: [mlp, mlp]}}",
            "steps.m.w.search.by: a selector is listed twice; list it once",
        ),
        (
            "w: ${search: {range: [0, 1], by: layers(1)}}",
            "steps.m.w.search.by: must be at least 2, got `layers(1)`",
        ),
    ],
)
def test_what_is_wrong_in_a_hole_is_told_where_it_stands(text, told):
    (line,) = refused(text)
    place, _, rest = line.partition(": ")
    assert place.startswith("r.yaml:2:")
    assert rest == told


def test_everything_wrong_is_told_at_once():
    assert len(refused("a: ${search: [1, 0]}, b: ${search: 3}, c: ${search: {range: [0, 1], by: 4}}")) == 3


def test_a_hole_outside_the_steps_is_refused():
    with pytest.raises(RecipeError) as error:
        read_holes(read_yaml("seed: ${search: {choices: [1, 2]}}\n", "r.yaml"))
    assert str(error.value) == "r.yaml:1:7: seed: a hole may only stand in a step; write a value here"


def test_what_stands_beside_search_is_refused():
    (line,) = refused("w: ${search: [0, 1], log: true}")
    assert line.endswith("steps.m.w: a hole is `${search: ...}` with nothing beside `search`")
