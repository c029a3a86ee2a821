from __future__ import annotations

import pytest

from surgery_hf.peft_keys import Part, parse_keys, prefix_rule


def test_a_name_is_a_module_and_a_part_of_it():
    keys = parse_keys(
        "base_model.model." + name
        for name in (
            "m.q.lora_A.weight",
            "m.q.lora_B.weight",
            "m.q.lora_B.bias",
            "m.q.lora_magnitude_vector",
            "m.e.lora_embedding_A",
            "m.e.base_layer.weight",
            "head.weight",
            "m.q.bias",
        )
    )
    assert keys.unknown == []
    assert {module: set(parts) for module, parts in keys.modules.items()} == {
        "m.q": {Part.A, Part.B, Part.BIAS_OF_B, Part.MAGNITUDE, Part.BIAS},
        "m.e": {Part.EMBEDDING_A, Part.BASE_WEIGHT},
        "head": {Part.WEIGHT},
    }
    assert keys.modules["m.q"][Part.A] == "base_model.model.m.q.lora_A.weight"


@pytest.mark.parametrize(
    "name",
    [
        "model.q.lora_A.weight",
        "base_model.model.q.lora_C.weight",
        "base_model.model.q.lora_A.default.weight",
        "base_model.model.q.token_adapter.trainable_tokens_delta",
        "base_model.model.q.token_adapter.weight",
        "base_model.model.experts.base_layer.lora_A.weight",
        "base_model.model.lora_A.weight",
        "base_model.model.weight",
        "base_model.model.q.ia3_l",
    ],
)
def test_names_that_are_not_understood_are_never_taken_for_weights(name):
    keys = parse_keys([name])
    assert (keys.modules, keys.unknown) == ({}, [name])


@pytest.mark.parametrize(
    ("targets", "names", "rule"),
    [
        (["m.a", "m.b"], ["m.a", "m.b", "h"], ("", "")),
        (["t.h.a", "t.h.b"], ["h.a", "h.b", "x"], ("t.", "")),
        (["l.a", "l.b"], ["m.l.a", "m.l.b", "head"], ("", "m.")),
        (["l.a", "l.c"], ["m.l.a", "m.l.b"], ("", "")),
        (["t.a", "u.b"], ["a", "b"], ("", "")),
        ([], ["a"], ("", "")),
    ],
)
def test_one_beginning_is_changed_only_if_every_name_then_agrees(targets, names, rule):
    assert prefix_rule(targets, dict.fromkeys(names)) == rule
