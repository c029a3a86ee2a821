from __future__ import annotations

import pytest

from surgery.recipe.document import Document, Position, Problem, clipped, dotted, shown

DOCUMENT = Document(
    "r.yaml",
    "",
    None,
    positions={(): Position(1, 1), ("a",): Position(2, 4), ("a", 0): Position(3, 5)},
    keys={("a",): Position(2, 1)},
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("steps", "mix", "weight", 1), "steps.mix.weight[1]"),
        (("models", "llama-3.1_x"), "models.llama-3.1_x"),
        (("keep", "layers[0:4].mlp", 0), 'keep["layers[0:4].mlp"][0]'),
        (("a", ""), 'a[""]'),
        ((0, "a"), "[0].a"),
        (("k" * 80,), "k" * 57 + "..."),
    ],
)
def test_a_path_reads_like_the_recipe(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "`null`"),
        (True, "`true`"),
        (1.5, "`1.5`"),
        ("x", "`x`"),
        ("", "empty text"),
        ("null", "`null`"),
        ([1], "a list"),
        ({}, "a mapping"),
        ("a\x1b[31m\nb", "`a [31m b`"),
        ("x" * 100, "`" + "x" * 57 + "...`"),
    ],
)
def test_a_value_is_shown_short_and_without_terminal_codes(value: object, text: str) -> None:
    assert shown(value) == text


def test_text_at_the_limit_is_not_clipped() -> None:
    assert clipped("x" * 60) == "x" * 60
    assert clipped("x" * 61) == "x" * 57 + "..."


def test_a_value_and_its_key_have_places_of_their_own() -> None:
    assert DOCUMENT.where(("a",)) == "r.yaml:2:4"
    assert DOCUMENT.where(("a",), key=True) == "r.yaml:2:1"


def test_what_has_no_place_is_where_its_holder_is() -> None:
    assert DOCUMENT.where(("a", 0, "missing", 3)) == "r.yaml:3:5"
    assert DOCUMENT.where(("b",)) == "r.yaml:1:1"


def test_a_document_without_positions_names_the_file() -> None:
    assert Document("r.yaml", "", {}).where(("a",)) == "r.yaml"
    assert str(Document("r.yaml", "", {}).finding(Problem(("a",), "bad"))) == "r.yaml: a: bad"


def test_findings_come_in_the_order_of_the_text_and_once() -> None:
    late, early = Problem(("a", 0), "late"), Problem(("a",), "early", key=True)
    assert [str(finding) for finding in DOCUMENT.findings([late, early, late])] == [
        "r.yaml:2:1: a: early",
        "r.yaml:3:5: a[0]: late",
    ]
