"""How layers are written: what parses, what does not, and which layers are meant."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery_stitch._slices import parse_range, parse_slice


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("2:5", [2, 3, 4]),
        (":2", [0, 1]),
        ("6:", [6, 7]),
        (":", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("3", [3]),
        (3, [3]),
        (" 2 : 4 ", [2, 3]),
    ],
)
def test_a_range_is_half_open(text, layers):
    assert list(parse_range(text).within(8, "a")) == layers


@pytest.mark.parametrize(
    ("text", "model", "layers"),
    [
        ("a[0:3]", "a", [0, 1, 2]),
        ("a[3]", "a", [3]),
        ("b-2.x[:]", "b-2.x", [0, 1, 2, 3]),
        (" a [ 1 : 2 ] ", "a", [1]),
    ],
)
def test_a_slice_names_a_model_and_its_layers(text, model, layers):
    found = parse_slice(text)
    assert found.model == model
    assert list(found.layers.within(4, model)) == layers


@pytest.mark.parametrize("text", ["", "2-5", "a", "1:2:3", "-1", "-2:", "1.5", True])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="is no range of layers") as error:
        parse_range(text)
    assert str(error.value) == f"`{text}` is no range of layers; write `2:5` for layers 2, 3 and 4, or `3`"


def test_what_is_no_slice_is_refused():
    with pytest.raises(ValueError, match="no slice") as error:
        parse_slice("a")
    assert str(error.value) == "`a` is no slice of a model; write `a[0:3]` for layers 0, 1 and 2, or `a[3]`"
    with pytest.raises(ValueError, match="no slice") as error:
        parse_slice("a[x]")
    assert str(error.value) == "`a[x]` is no slice of a model; write `a[0:3]` or `a[3]`"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("2:9", "reaches past the last layer"),
        ("4", "reaches past the last layer"),
        ("9:12", "reaches past the last layer"),
        ("2:1", "names no layer"),
        ("2:2", "names no layer"),
    ],
)
def test_a_range_that_the_model_does_not_have_is_refused_with_its_real_one(text, what):
    with pytest.raises(PlanError) as error:
        parse_range(text).within(4, "a")
    assert str(error.value) == f"`{text}`: {what}, `a` has 4 layers (0 to 3); write others"
