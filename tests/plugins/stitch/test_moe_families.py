"""Which mixtures there are, and what becomes which."""

from __future__ import annotations

from typing import get_args

import pytest

from surgery.errors import PlanError
from surgery_stitch._moe_families import FAMILIES, FamilyName, family_for


def test_every_layout_that_can_be_written_is_there():
    assert set(get_args(FamilyName)) == set(FAMILIES)


@pytest.mark.parametrize(
    ("kind", "wanted", "found"),
    [
        ("llama", None, "mixtral"),
        ("mistral", None, "mixtral"),
        ("qwen2", None, "qwen2_moe"),
        ("qwen3", None, "qwen3_moe"),
        ("llama", "deepseek", "deepseek"),
        ("mistral", "qwen2_moe", "qwen2_moe"),
    ],
)
def test_a_dense_model_has_a_usual_mixture_and_may_become_others(kind, wanted, found):
    assert family_for("a", {"model_type": kind}, wanted).name == found


@pytest.mark.parametrize("kind", ["gpt2", None])
def test_other_models_are_refused(kind):
    with pytest.raises(PlanError) as error:
        family_for("a", {"model_type": kind} if kind else {}, None)
    assert str(error.value) == (
        f"`a` is no dense model that a mixture can be made of, got model type `{kind}`; "
        "give models of type `llama`, `mistral`, `qwen2`, `qwen3`"
    )


def test_a_layout_that_does_not_fit_names_those_that_do():
    with pytest.raises(PlanError) as error:
        family_for("a", {"model_type": "llama"}, "qwen3_moe")
    assert str(error.value) == (
        "`a` is a llama, which cannot become `layout: qwen3_moe`; write `mixtral` or `qwen2_moe` or `deepseek`"
    )


def test_what_a_layer_keeps_is_named_from_the_layer_on():
    kept = FAMILIES["qwen3_moe"].kept
    assert {"input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_norm.weight"} < kept
    assert "self_attn.q_norm.weight" not in FAMILIES["mixtral"].kept
