"""The one thing that the reader adds to YAML: `${search: ...}`."""

from __future__ import annotations

import pytest

from surgery.errors import RecipeError
from surgery.recipe.yaml import read_yaml


@pytest.mark.parametrize(
    "text", ["a: ${search: [0, 1]}", "a: {b: ${search: [0, 1]}}", "a: [${search: [0, 1]}]"]
)
def test_a_hole_reads_as_the_mapping_within_its_braces(text):
    document = read_yaml(text)
    (path,) = document.holes
    inside = document.data
    for part in path:
        inside = inside[part]
    assert inside == {"search": [0, 1]}


def test_a_hole_stands_where_its_dollar_does():
    document = read_yaml("x: 1\nabc: ${search: [0, 1.5]}\n")
    assert str(document.position(("abc",))) == "2:6"
    assert str(document.position(("abc", "search", 1))) == "2:20"


def test_aliases_of_a_hole_stand_where_it_stands():
    document = read_yaml("a: &w ${search: [0, 1]}\nb: *w\n")
    assert document.holes == (("a",), ("b",))
    assert {str(document.position(path)) for path in document.holes} == {"1:7"}


@pytest.mark.parametrize("text", ["${HOME}/x", "'${search: 1}'", "a${search", "${searching}", "$search"])
def test_other_text_with_dollars_stays_text(text):
    assert read_yaml(f"a: {text}").data == {"a": text.strip("'")}
    assert read_yaml(f"a: {text}").holes == ()


def test_a_mapping_with_the_key_search_is_no_hole():
    assert read_yaml("a: {search: [0, 1]}").holes == ()


def test_a_brace_that_is_not_closed_is_not_valid_yaml():
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_yaml("a: ${search: [0, 1]\nb: 1\n")
