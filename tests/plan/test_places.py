from __future__ import annotations

from pathlib import Path

import pytest

from surgery.checkpoint.base_publisher import Destination
from surgery.plan.places import place_of
from surgery.recipe.load import parse_recipe

SHELF = Destination(
    "shelf", lambda rest: "" if rest else "is no shelf", lambda *_: None, lambda rest: f"on-{rest}"
)


def place(output: str, out: str | None = None):
    text = f"surgery: 1\nmodels: {{a: ./a}}\noutput: {{model: a, {output}}}\n"
    recipe = parse_recipe(text, folder=Path("/recipes"))
    assert recipe.output is not None
    return place_of(recipe, recipe.output, Path(out) if out else None, lambda: [SHELF])


def test_a_folder_is_relative_to_the_recipe_or_to_where_the_command_was_given():
    assert place("to: ./x").folder == Path("/recipes/x")
    assert place("to: /x").folder == Path("/x")
    assert place("to: ./x", out="y").folder == Path("y").absolute()
    assert place("dtype: float32").folder is None


def test_a_scheme_is_published_from_a_folder_beside_the_recipe():
    found = place("to: 'shelf:3'")
    assert (found.folder, str(found.target)) == (Path("/recipes/on-3"), "shelf:3")
    assert found.target is not None
    assert not found.target.keep


def test_keep_says_where_the_folder_stays():
    found = place("to: 'shelf:3', keep: ./mine, private: true")
    assert found.folder == Path("/recipes/mine")
    assert found.target is not None
    assert (found.target.keep, found.target.private) == (True, True)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("to: 'shell:3'", ("to", "no plugin publishes to `shell:`; did you mean `shelf`?")),
        ("to: 'shelf:'", ("to", "is no shelf")),
        (
            "to: ./x, keep: ./y",
            ("keep", "is for outputs that are published, such as `to: hub:org/name`; remove it"),
        ),
        (
            "to: ./x, private: true",
            ("private", "is for outputs that are published, such as `to: hub:org/name`; remove it"),
        ),
    ],
)
def test_what_is_wrong_is_found_while_planning(output, problem):
    assert place(output).problems == (problem,)


def test_a_drive_is_no_scheme():
    assert place("to: 'c:/x'").folder == Path("/recipes/c:/x")
