from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe.document import Document
from surgery.recipe.yaml import read_yaml
from surgery.search.winner import plain_yaml


def document(**steps) -> Document:
    data = {"surgery": 1, "models": {"a": "./a"}, "steps": steps, "search": {"trials": 3}}
    return Document("r.yaml", "", data | {"output": {"model": "m", "to": "./out"}})


def again(steps: dict, folder: Path) -> dict:
    return read_yaml(plain_yaml(document(**steps), folder, folder / "found")).data


def test_paths_lead_to_the_same_places_from_the_other_folder(tmp_path):
    (tmp_path / "a").mkdir()
    data = document(m={"op": "x.y"}).data
    data["models"] |= {
        "hub": "org/name@main",
        "both": {"source": "a", "adapter": "hub:x"},
        "absolute": "/nowhere",
    }
    text = plain_yaml(Document("r.yaml", "", data), tmp_path, tmp_path / "found", ["a note"])
    assert text.startswith("# a note\nsurgery: 1\n")
    read = read_yaml(text).data
    assert read["models"] == {
        "a": "../a",
        "hub": "org/name@main",
        "both": {"source": "../a", "adapter": "hub:x"},
        "absolute": "/nowhere",
    }
    assert read["output"] == {"model": "m", "to": "../out"}
    assert "search" not in read


def test_calibration_texts_are_found_from_there(tmp_path):
    data = document(m={"op": "x.y", "calibration": {"text": "./own.txt", "samples": 2}}).data
    data["calibration"] = {"text": ["a.txt", "/b.txt"]}
    read = read_yaml(plain_yaml(Document("r.yaml", "", data), tmp_path, tmp_path / "found")).data
    assert read["calibration"] == {"text": ["../a.txt", "/b.txt"]}
    assert read["steps"] == {"m": {"op": "x.y", "calibration": {"text": "../own.txt", "samples": 2}}}


@pytest.mark.parametrize(
    "text", ["1e5", "0o7", "true", "no", ".5", "~", "", "layers[0:8].mlp", "a: b", "#", "-", "1"]
)
def test_text_stays_text(text, tmp_path):
    assert again({"m": {"op": "x.y", "key": text, text or "k": 1}}, tmp_path)["steps"]["m"]["key"] == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_to_the_last_bit(number):
    back = again({"m": {"weight": number}}, Path("/tmp"))["steps"]["m"]["weight"]
    assert (back, math.copysign(1, back)) == (number, math.copysign(1, number))
    assert isinstance(back, float)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab:#{}[]', &*!|>%@`\"-", max_size=6),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    )
)
def test_data_survives_the_round_trip(value):
    assert again({"m": {"key": value}}, Path("/tmp"))["steps"]["m"]["key"] == value


def test_what_an_alias_repeated_is_written_out(tmp_path):
    shared = [0.1, 0.2]
    text = plain_yaml(document(m={"a": shared, "b": shared}), tmp_path, tmp_path)
    assert "&" not in text
    assert read_yaml(text).data["steps"]["m"] == {"a": [0.1, 0.2], "b": [0.1, 0.2]}
