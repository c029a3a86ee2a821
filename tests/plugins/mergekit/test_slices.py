"""Slices: which steps they become."""

from __future__ import annotations

import pytest


def stack(method: str, *slices: str, rest: str = "") -> str:
    listed = "\n".join(f"  - {{sources: [{sources}]}}" for sources in slices)
    return f"merge_method: {method}\nslices:\n{listed}\n{rest}"


def source(model: str, first: int, last: int, **more: str) -> str:
    further = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{model: {model}, layer_range: [{first}, {last}]{further}}}"


def test_a_stack_of_whole_layers_is_one_step(translate):
    data = translate(stack("passthrough", source("a", 0, 3), source("b", 1, 4), source("a", 2, 4))).data
    assert data["steps"] == {
        "merged": {
            "op": "stitch.layers",
            "models": ["a", "b"],
            "layers": ["a[0:3]", "b[1:4]", "a[2:4]"],
            "tied": "embed",
        }
    }
    assert data["output"] == {"model": "merged", "tokenizer": "a"}


def test_a_slice_of_two_is_merged_before_it_is_stacked(translate):
    two = f"{source('a', 0, 2)}, {source('b', 4, 6)}"
    steps = translate(stack("linear", two, source("b", 6, 8), rest="parameters: {weight: 1}")).data["steps"]
    assert steps["a-0-2"] == {"op": "stitch.layers", "models": ["a"], "layers": ["a[0:2]"]}
    assert steps["merged-0-2"]["models"] == {"a-0-2": 1, "b-4-6": 1}
    assert steps["merged"]["layers"] == ["merged-0-2[:]", "merged-2-4[:]"]


def test_one_slice_alone_is_not_stacked(translate):
    two = f"{source('a', 0, 2)}, {source('b', 0, 2)}"
    steps = translate(stack("slerp", two, rest="base_model: a\nparameters: {t: 0.5}")).data["steps"]
    assert list(steps) == ["a-0-2", "b-0-2", "merged"]
    assert steps["merged"]["models"] == ["a-0-2", "b-0-2"]


def test_layers_of_one_model_may_be_merged_with_each_other(translate):
    two = f"{source('a', 0, 2)}, {source('a', 2, 4)}"
    steps = translate(stack("linear", two, rest="parameters: {weight: 1}")).data["steps"]
    assert list(steps["merged"]["models"]) == ["a-0-2", "a-2-4"]


def test_the_same_layers_twice_are_two_models(translate):
    two = f"{source('a', 0, 2)}, {source('a', 0, 2)}"
    steps = translate(stack("linear", two, rest="parameters: {weight: 1}")).data["steps"]
    assert list(steps["merged"]["models"]) == ["a-0-2", "a-0-2-2"]


def test_a_scaled_layer_is_a_step_of_its_own(translate):
    scaled = source("a", 1, 2, parameters="{scale: [{filter: o_proj, value: 0}]}")
    steps = translate(stack("passthrough", source("a", 0, 2), scaled)).data["steps"]
    assert steps["merged-2-3"] == {
        "op": "merge.passthrough",
        "model": "a-1-2",
        "scale": {"*o_proj*": 0, "default": 1.0},
    }


def test_a_slice_may_have_a_base_of_its_own(translate):
    text = f"""
merge_method: task_arithmetic
slices:
  - sources: [{source("a", 0, 2)}, {source("b", 0, 2)}]
    base_model: b
    residual_weight: 0.5
base_model: a
parameters: {{weight: 1}}
"""
    made = translate(text)
    assert made.data["steps"]["merged"]["base"] == "b-0-2"
    assert [str(finding) for finding in made.warnings] == [
        "m.yaml:6:5: slices[0].residual_weight: `residual_weight` does nothing, as in mergekit"
    ]


@pytest.mark.parametrize(
    ("sources", "line"),
    [
        (
            "{model: a, layer_range: [2, 1]}",
            "m.yaml:3:40: slices[0].sources[0].layer_range: must be two layers, the second behind the last one taken, "
            "got `[2, 1]`; write `[0, 8]`",
        ),
        (
            "{model: a}",
            "m.yaml:3:16: slices[0].sources[0].layer_range: must be two layers, the second behind the last one taken, "
            "got `null`; write `[0, 8]`",
        ),
        (
            "{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}",
            "m.yaml:3:15: slices[0].sources: sources must have equally many layers, got 2, 3",
        ),
        (
            "{model: a, layer_range: [0, 2]}",
            "m.yaml:3:5: slices[0]: the base `c` is none of the slice's sources; add it to them",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong, sources, line):
    assert wrong(stack("ties", sources, rest="base_model: c\nparameters: {weight: 1}")) == [line]


def test_a_range_past_the_end_is_refused_with_the_models_real_range(values):
    with pytest.raises(Exception, match=r"reaches past the last layer, `memory-one` has 4 layers \(0 to 3\)"):
        values(stack("passthrough", source("memory:one", 0, 99)))
