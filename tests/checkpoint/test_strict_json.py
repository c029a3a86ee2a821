from __future__ import annotations

import pytest

from surgery.checkpoint.strict_json import json_type, parse_object
from surgery.errors import CheckpointError


def test_an_object_is_parsed_in_its_order():
    assert list(parse_object(b' {"b": [1], "a": {"c": null}}\n ', "f: header")) == ["b", "a"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"[]", "must be a JSON object, got an array; the file is damaged"),
        (b"3", "must be a JSON object, got an integer; the file is damaged"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 7; the file is damaged"),
        (
            b'{"a"',
            "is not valid JSON: Expecting ':' delimiter: line 1 column 5 (char 4); the file is damaged",
        ),
        (b"", "is not valid JSON: Expecting value: line 1 column 1 (char 0); the file is damaged"),
        (
            b'{"a": 1, "b": 2, "a": 3}',
            "is not acceptable JSON: key `a` appears twice; the file is damaged or hostile",
        ),
        (b'{"a": NaN}', "is not acceptable JSON: NaN is no JSON number; the file is damaged or hostile"),
        (
            b'{"a": -Infinity}',
            "is not acceptable JSON: -Infinity is no JSON number; the file is damaged or hostile",
        ),
    ],
)
def test_whatever_can_be_understood_in_two_ways_is_refused(data, what):
    with pytest.raises(CheckpointError) as caught:
        parse_object(data, "f: header")
    assert str(caught.value) == f"f: header {what}"


@pytest.mark.parametrize("data", [b'{"a":' * 100_000, b'{"a": ' + b"9" * 100_000 + b"}"])
def test_depth_and_long_integers_do_not_hang_or_overflow(data):
    with pytest.raises(CheckpointError, match="is not acceptable JSON"):
        parse_object(data, "f: header")


def test_types_have_their_json_names():
    values = [{}, [], "", 1, 1.5, True, None]
    names = ["an object", "an array", "a string", "an integer", "a fraction", "a boolean", "null"]
    assert [json_type(value) for value in values] == names
