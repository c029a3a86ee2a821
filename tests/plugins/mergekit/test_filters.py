"""Filters: text anywhere in a name, in the numbering that a document sees."""

from __future__ import annotations

import pytest

from surgery.recipe.select import compile_selector
from surgery.tensors import Role, TensorInfo, TensorSpec
from surgery_mergekit._filters import Slice, selector


def matches(text: str, name: str) -> bool:
    return compile_selector(selector(text)).matches(TensorInfo(TensorSpec(name, (1,), "F32"), Role()))


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("mlp", "model.layers.0.mlp.up_proj.weight", True),
        ("p.up", "model.layers.0.mlp.up_proj.weight", True),
        ("MLP", "model.layers.0.mlp.up_proj.weight", False),
        ("layers.1", "model.layers.12.mlp.up_proj.weight", True),
        ("mlp|attn", "model.layers.0.mlp.up_proj.weight", False),
        ("w[0]", "a.w[0].b", True),
        ("w?", "a.w0.b", False),
        ("a.c", "a-c", False),
    ],
)
def test_a_filter_is_plain_text_in_the_name(text, name, found):
    assert matches(text, name) is found


def test_a_layer_is_looked_for_where_it_stands_in_the_slice():
    assert Slice(8, 4).selectors("layers.10.mlp") == ["*layers.2.mlp*"]
    assert Slice(8, 4).selectors("layers.1") == ["*layers.2.*", "*layers.3.*"]
    assert Slice(8, 4).selectors("model.layers.9.") == ["*model.layers.1.*"]
    assert Slice(8, 4).selectors("layers.3.mlp") == []


@pytest.mark.parametrize("text", ["mlp", "experts.3.w1", "fc1", "layernorm2"])
def test_other_numbers_stay(text):
    assert Slice(8, 4).selectors(text) == [f"*{text}*"]


def test_a_filter_behind_one_that_takes_its_tensors_is_left_out(step, warned):
    text = (
        "merge_method: linear\nmodels: [{model: a}]\nparameters:\n"
        "  weight: [{filter: mlp, value: 1}, {filter: mlp.up, value: 2}, {value: 3}]"
    )
    assert step(text)["models"] == {"a": {"weight": {"*mlp*": 1, "default": 3}}}
    assert warned(text) == [
        "m.yaml:4:37: parameters.weight[1]: filter `mlp.up` is never reached: an earlier one takes its tensors"
    ]
