"""Models merged whole: who is the base, how many there are, whose files are copied."""

from __future__ import annotations

import pytest


def document(method: str, models: str, rest: str = "") -> str:
    listed = ", ".join(f"{{model: {name}}}" for name in models.split())
    return f"merge_method: {method}\nmodels: [{listed}]\nparameters: {{weight: 1, t: 0.5}}\n{rest}"


def test_a_base_among_the_models_is_no_model_of_the_step(step):
    made = step(document("ties", "base a b", "base_model: base"))
    assert (made["base"], list(made["models"])) == ("base", ["a", "b"])


def test_a_base_need_not_be_listed(step):
    assert step(document("ties", "a", "base_model: base"))["base"] == "base"


@pytest.mark.parametrize("models", ["base a", "a base", "a"])
def test_slerp_begins_at_the_base(step, models):
    made = step(document("slerp", models, "base_model: base"))
    assert made["models"] == ["base", "a"]
    assert "base" not in made


def test_linear_takes_the_base_for_a_model_and_its_files(translate):
    data = translate(document("linear", "a b", "base_model: b")).data
    assert data["steps"]["merged"]["models"] == {"b": 1, "a": 1}
    assert data["output"] == {"model": "merged", "tokenizer": "b"}


def test_the_first_model_gives_the_files_where_there_is_no_base(translate):
    assert translate(document("linear", "z a")).data["output"]["tokenizer"] == "z"


def test_linear_says_why_an_unlisted_base_has_no_weight(wrong):
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\nbase_model: base"
    assert wrong(text) == [
        "m.yaml:3:13: base_model: missing parameter `weight`, which `linear` needs; it was added as the base"
    ]


def test_a_base_has_no_parameters_of_its_own(warned):
    text = "merge_method: ties\nbase_model: b\nmodels: [{model: b, parameters: {weight: 2}}, {model: a}]\n"
    assert warned(text + "parameters: {weight: 1}") == [
        "m.yaml:3:34: models[0].parameters.weight: the base has no parameters in `ties`; `weight` is passed over"
    ]


def test_parameters_of_the_step_are_not_read_from_a_model(warned):
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 2, normalize: false}}]"
    assert warned(text) == [
        "m.yaml:2:45: models[0].parameters.normalize: `normalize` is a parameter of the whole step, "
        "passed over for one model; write it above"
    ]


@pytest.mark.parametrize(
    ("method", "models", "base", "line"),
    [
        ("ties", "a", "", "m.yaml:1:15: merge_method: `ties` needs a base; add `base_model:`"),
        ("slerp", "base a b", "base", "m.yaml:2:9: models: `slerp` takes one model beside the base, got 2"),
        ("nuslerp", "a", "", "m.yaml:2:9: models: `nuslerp` takes two models beside the base, got 1"),
        (
            "model_stock",
            "a",
            "b",
            "m.yaml:2:9: models: `model_stock` takes two models or more beside the base, got 1",
        ),
        ("passthrough", "a b", "", "m.yaml:2:9: models: `passthrough` takes one model, got 2"),
    ],
)
def test_the_number_of_models_must_fit_the_method(wrong, method, models, base, line):
    assert wrong(document(method, models, f"base_model: {base}" if base else "")) == [line]


def test_layers_below_models_are_passed_over(warned):
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, layer_range: [0, 2]}]"
    assert warned(text) == [
        "m.yaml:3:21: models[0].layer_range: `layer_range` is passed over below `models`; "
        "write `slices` to take layers"
    ]


def test_the_default_module_is_the_whole_model(step, wrong):
    text = "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  default: {models: [{model: a}]}\n"
    assert step(text)["models"] == {"a": 1}
    assert wrong(text + "  vision_tower: {models: [{model: a}]}") == [
        "m.yaml:5:3: modules.vision_tower: `default` is the only module of a model that has it, "
        "got `vision_tower` besides; remove one"
    ]


def test_what_mergekit_leaves_unsaid_is_written(step):
    made = step(document("linear", "a b"))
    assert (made["missing"], made["tokenizer"]) == ("skip", "accept")
