from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.errors import RecipeError
from surgery.recipe.document import Position
from surgery.recipe.yaml import MAX_BYTES, MAX_DEPTH, read_yaml

Lines = Callable[[Callable[[], object]], list[str]]


def read(text: str | bytes) -> Any:
    return read_yaml(text, "r.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-17", -17),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("18446744073709551615", (1 << 64) - 1),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        *((word, word) for word in ("yes", "no", "on", "off", "True", "FALSE", "Null", "y")),
        *((word, word) for word in ("2024-01-01", "1_000", "1:30", "0b11", "1e", ".", "-x", "+", "<", "0o8")),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    found = read(f"x: {text}")["x"]
    assert (found, type(found)) == (value, type(value))


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(read("x: .NaN")["x"])


def test_every_value_and_key_has_its_place() -> None:
    document = read_yaml("a: 1\nb:\n  - x\n  - {c: [2]}\n", "r.yaml")
    assert document.data == {"a": 1, "b": ["x", {"c": [2]}]}
    assert document.positions == {
        (): Position(1, 1),
        ("a",): Position(1, 4),
        ("b",): Position(3, 3),
        ("b", 0): Position(3, 5),
        ("b", 1): Position(4, 5),
        ("b", 1, "c"): Position(4, 9),
        ("b", 1, "c", 0): Position(4, 10),
    }
    assert document.keys == {("a",): Position(1, 1), ("b",): Position(2, 1), ("b", 1, "c"): Position(4, 6)}


def test_what_an_alias_repeats_stands_at_its_anchor() -> None:
    document = read_yaml("a: &x {k: 1}\nb: *x\n")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.where(("b", "k")) == "<recipe>:1:11"
    assert document.where(("b",), key=True) == "<recipe>:2:1"


def test_bytes_with_or_without_a_byte_order_mark_are_text() -> None:
    assert read("a: é".encode()) == read("\ufeffa: é".encode()) == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml:3:1: a: written twice, on lines 1 and 3; keep one"),
        ("x:\n  1: y", 'r.yaml:2:3: x: a key must be text, got `1`; quote it: `"1"`'),
        ("true: y", 'r.yaml:1:1: a key must be text, got `true`; quote it: `"true"`'),
        ("null: y", 'r.yaml:1:1: a key must be text, got `null`; quote it: `"null"`'),
        ("[1]: y", "r.yaml:1:1: a key must be text, got a list"),
        ("? {a: 1}\n: y", "r.yaml:1:3: a key must be text, got a mapping"),
        ('"\\e[0m": y', "r.yaml:1:1: a key with control characters; remove them"),
        ('a: "\\0"', "r.yaml:1:4: a: text with control characters; remove them"),
        ('a: "\\ud800"', "r.yaml:1:4: a: text with control characters; remove them"),
        (
            "a: &x {b: 1}\nc: {<<: *x}",
            "r.yaml:2:5: c: merge keys are not supported, got `<<`; write the keys out",
        ),
        (
            "a: !!python/object/apply:os.system [ls]",
            "r.yaml:1:4: a: a tag, got `!!python/object/apply:os.system`; remove it",
        ),
        ("a: !!binary aGk=", "r.yaml:1:4: a: a tag, got `!!binary`; remove it"),
        ("a: !env HOME", "r.yaml:1:4: a: a tag, got `!env`; remove it"),
        ("a: !!set {b, c}", "r.yaml:1:4: a: a tag, got `!!set`; remove it"),
        ("a: !!int x", "r.yaml:1:4: a: the tag says int, got `x`; remove the tag"),
        ("a: 1e999", "r.yaml:1:4: a: the number is too large, got `1e999`"),
        ("a: " + "9" * 5000, f"r.yaml:1:4: a: the number is too large, got `{'9' * 57}...`"),
        ("a: &x [*x]", "r.yaml:1:4: a[0]: an alias to what contains it; write the value out"),
        ("a: 1\n---\nb: 2", "r.yaml:3:1: a second document; a recipe is one document: remove the rest"),
        ("a:\n\tb: 1", "r.yaml:2:1: not valid YAML: a tab cannot indent; use spaces"),
        (
            "a: b: c",
            "r.yaml:1:5: not valid YAML: unexpected `:`; quote text that contains `: `, or mend the indentation",
        ),
        (
            "a:\n  b: 1\n   c: 2",
            "r.yaml:3:5: not valid YAML: unexpected `:`; quote text that contains `: `, or mend the indentation",
        ),
        (
            "a:\n    b:\n    - 1\n   c: 2",
            "r.yaml:4:4: not valid YAML: indented unlike the keys above; mend the indentation",
        ),
        ("a: [1", "r.yaml:1:6: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: *b", "r.yaml:1:4: not valid YAML: found undefined alias 'b'"),
        ("a:\n  b: \x07", "r.yaml:2:6: not valid YAML: the character U+0007 is not allowed"),
        ('a: "\\UFFFFFFFF"', "r.yaml:1:7: not valid YAML: a number or an escape is out of range"),
        (b"a: 1\nb: \xff", "r.yaml:2:4: not UTF-8, got byte 0xff; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "r.yaml:1:1: not UTF-8, got byte 0xff; save the file as UTF-8"),
        (b" " * (MAX_BYTES + 1), "r.yaml: the text is too long, got more than 1,048,576 bytes"),
        ("é" * (MAX_BYTES // 2 + 1), "r.yaml: the text is too long, got more than 1,048,576 bytes"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text: str | bytes, message: str, lines: Lines) -> None:
    assert lines(lambda: read(text)) == [message]


def test_all_that_does_not_stop_reading_is_reported_in_order(lines: Lines) -> None:
    text = "b: {2: x}\na: !t 1\na: 2\nc: 1e999\n"
    assert [line.split(": ")[0] for line in lines(lambda: read(text))] == [
        "r.yaml:1:5",
        "r.yaml:2:4",
        "r.yaml:3:1",
        "r.yaml:4:4",
    ]


def test_thousands_of_problems_are_reported_as_a_hundred(lines: Lines) -> None:
    assert len(lines(lambda: read("a: 1\n" * 300))) == 100


def test_nesting_up_to_the_limit_is_read() -> None:
    text = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert len(read_yaml(text).positions) == MAX_DEPTH + 1


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 40, "? " * 1000])
def test_deeper_nesting_is_refused_without_recursion(text: str, lines: Lines) -> None:
    (line,) = lines(lambda: read(text))
    assert line.endswith(": nested too deeply, got more than 32 levels")


def test_aliases_cannot_nest_deeper_than_text_can(lines: Lines) -> None:
    nest = "a: &a " + "[" * 20 + "1" + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20
    (line,) = lines(lambda: read(nest))
    assert line.endswith(f": b{'[0]' * 2}: nested too deeply, got more than 32 levels")


def test_a_billion_laughs_are_refused_at_once(lines: Lines) -> None:
    bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
    )
    start = time.perf_counter()
    (line,) = lines(lambda: read(bomb))
    assert line.endswith("too many values, got more than 50,000 (what an alias repeats counts each time)")
    assert time.perf_counter() - start < 5


def test_a_long_list_is_refused_while_it_is_read(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.recipe.yaml.MAX_NODES", 100)
    assert read("[" + "1," * 99 + "]") == [1] * 99
    assert lines(lambda: read("[" + "1," * 1000 + "]"))[0].startswith("r.yaml:1:200: too many values")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


class Dumper(yaml.SafeDumper):
    """Writes what YAML 1.2 reads: text is always quoted, and nothing is written as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "'"))


@given(plain)
@example({"<": [1e22, 5e-324, "null"]})
def test_what_is_dumped_is_read_again(value: Any) -> None:
    document = read_yaml(yaml.dump(value, Dumper=Dumper, allow_unicode=True))
    assert document.data == value
    assert len(document.positions) == 1 + sum(1 for _ in _parts(value))


def _parts(value: Any) -> Any:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield one
        yield from _parts(one)


@given(st.text() | st.binary() | st.text("ab:-[]{}&*!|>'\"%?,# \n\t<~01.", max_size=60))
@example("%YAML 9" + "9" * 5000 + ".1\n---\na")
@example("! !!map <<: *a")
@example('"\\x9b\\uD834"')
@example("a: |9\n b")
@example("%TAG ! tag:yaml.org,2002:python/\n--- !object:x a")
def test_any_text_is_read_or_refused_with_a_recipe_error(text: str | bytes) -> None:
    findings = ()
    try:
        read_yaml(text)
    except RecipeError as error:
        findings = error.findings
    assert all(finding.what and finding.where for finding in findings)
