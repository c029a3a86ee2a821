"""Scalars, gradients and filters as documents write them."""

from __future__ import annotations

import pytest

LINEAR = "merge_method: linear\nmodels: [{{model: a, parameters: {{weight: {}}}}}]"
SCALED = (
    "merge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}]\nparameters: {{normalize: {}}}"
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0.5", 0.5),
        ("1e-5", 1e-5),
        ('"1e-5"', 1e-5),
        ("true", 1.0),
        ("[0, 1e-3]", [0, 1e-3]),
        ("{value: 0.5}", 0.5),
        ("[{value: [0, 1]}]", [0, 1]),
        ("[{filter: mlp, value: 0.2}, {value: 1}]", {"*mlp*": 0.2, "default": 1}),
        ("[{filter: mlp, value: [0, 1]}, {filter: '*', value: 1}]", {"*mlp*": [0, 1], "default": 1}),
        ("[{filter: null, value: 1}, {filter: mlp, value: 2}]", 1),
        ("{filter: mlp, value: 2}", {"*mlp*": 2}),
    ],
)
def test_a_number_may_be_written_in_many_ways(step, written, meant):
    models = step(LINEAR.format(written))["models"]["a"]
    assert (models["weight"] if isinstance(models, dict) else models) == meant


@pytest.mark.parametrize(
    ("written", "meant"), [("no", False), ("On", True), ("1", True), ("0.0", False), ("[{value: yes}]", True)]
)
def test_a_switch_may_be_a_word_of_yaml_1_1_or_a_number(step, written, meant):
    assert step(SCALED.format(written))["normalize"] is meant


@pytest.mark.parametrize("unset", ["[]", "null"])
def test_an_empty_list_says_nothing(step, wrong, unset):
    assert step(SCALED.format(unset))["normalize"] is True
    assert wrong(LINEAR.format(unset)) == [
        "m.yaml:2:10: models[0]: missing parameter `weight`, which `linear` needs"
    ]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("high", "must be a number, a gradient or filters, got `high`"),
        ("[1, a]", "must be a number, a gradient or filters, got `a`"),
        (".inf", "must be a number, a gradient or filters, got `inf`"),
        ("[1, {value: 2}]", "a list of numbers and filters mixed; write one or the other"),
        ("[{filter: mlp}]", "a filter without `value`; add it"),
        ("{value: []}", "an empty gradient; write at least one number"),
        ("{value: 1, fliter: mlp}", "unknown key `fliter`; did you mean `filter`?"),
    ],
)
def test_what_is_no_value_is_refused(wrong, written, what):
    assert wrong(LINEAR.format(written))[0].endswith(what)


def test_a_switch_has_one_value_for_all_tensors(wrong):
    assert wrong(SCALED.format("[true, false]")) == [
        "m.yaml:3:25: parameters.normalize: must be `true` or `false`, got a gradient; "
        "our op takes one value for all tensors"
    ]
    assert wrong(SCALED.format("[{filter: mlp, value: true}, {value: false}]"))[0].endswith(
        "`normalize` takes one value for all tensors here, got filters"
    )
