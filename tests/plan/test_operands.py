"""Tensors that some models lack, of other shapes, or without arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.plan.nodes import Agree, Apply, Source

UP0, UP1 = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"


def nodes(plan):
    return {tensor.spec.name: tensor.node for tensor in plan.outputs[0].tensors}


def refused(call) -> str:
    with pytest.raises(PlanError) as error:
        call()
    return str(error.value)


def test_integer_tensors_must_agree(plan, memory):
    ids = {"ids": (3,)}
    made = nodes(plan("  m: {op: toy.mix, models: [a, b]}", a=memory(ids, np.int64), b=memory(ids, np.int64)))
    assert isinstance(made["ids"], Agree)


def test_on_int_first_takes_the_first(plan, memory):
    ids = {"ids": (3,)}
    a, b = memory(ids, np.int64), memory(ids, np.int64)
    made = nodes(plan("  m: {op: toy.mix, models: [a, b]}", extra="on_int: first", a=a, b=b))
    assert isinstance(made["ids"], Source)


def test_integers_of_different_types_are_refused(plan, memory):
    a, b = memory({"ids": (3,)}, np.int64), memory({"ids": (3,)}, np.int32)
    message = refused(lambda: plan("  m: {op: toy.mix, models: [a, b]}", a=a, b=b))
    assert message == (
        "<recipe>:4:6: steps.m: tensor ids is stored as I32 and I64, no arithmetic is defined on it; "
        "dequantize the models first, or leave it out with `where:`"
    )


def test_shapes_that_differ_are_refused_with_both(plan, memory):
    other = memory({"lm_head.weight": (9, 4), "model.embed_tokens.weight": (9, 4), UP0: (6, 4), UP1: (6, 4)})
    message = refused(lambda: plan("  m: {op: toy.mix, models: [a, b], missing: skip}", b=other))
    assert message == (
        "<recipe>:4:6: steps.m: `a` and `b` differ at model.embed_tokens.weight: (8, 4) and (9, 4) "
        "(and 1 more such tensors); make the vocabularies equal with `stitch.tokenizer` or `stitch.resize_vocab`"
    )


@pytest.mark.parametrize(("missing", "inputs"), [("skip", 1), ("base", 0)])
def test_a_missing_tensor_is_skipped_or_copied_on_request(plan, memory, missing, inputs):
    fewer = memory({UP0: (6, 4)})
    made = nodes(plan(f"  m: {{op: toy.mix, models: [a, b], missing: {missing}}}", b=fewer))
    node = made["lm_head.weight"]
    assert (len(node.models) if isinstance(node, Apply) else 0) == inputs
    assert len(made[UP0].models) == 2


def test_a_missing_tensor_is_refused_with_the_way_out(plan, memory):
    fewer = memory(dict.fromkeys((UP0, UP1), (6, 4)))
    message = refused(lambda: plan("  m: {op: toy.mix, models: [a, b]}", b=fewer))
    assert message == (
        "<recipe>:4:6: steps.m: tensor model.embed_tokens.weight is missing in `b`, `a` has it "
        "(and 2 more such tensors); "
        "set `missing: skip` to use the models that have it, or `missing: base` to copy it"
    )


@pytest.mark.parametrize("order", ["a, b", "b, a"])
def test_a_tied_model_gives_its_embedding_where_others_have_a_head(plan, memory, order):
    tied = {"model_type": "llama", "num_hidden_layers": 0, "tie_word_embeddings": True}
    both = {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4)}
    embed = {"model.embed_tokens.weight": (8, 4)}
    made = plan(f"  m: {{op: toy.mix, models: [{order}]}}", a=memory(embed, config=tied), b=memory(both))
    head = nodes(made)["lm_head.weight"]
    assert [node.spec.name for node in head.models] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert made.outputs[0].config["tie_word_embeddings"] is False


def test_two_tied_models_stay_tied(plan, memory):
    tied = {"model_type": "llama", "num_hidden_layers": 0, "tie_word_embeddings": True}
    embed = {"model.embed_tokens.weight": (8, 4)}
    made = plan(
        "  m: {op: toy.mix, models: [a, b]}", a=memory(embed, config=tied), b=memory(embed, config=tied)
    )
    assert list(nodes(made)) == ["model.embed_tokens.weight"]
    assert made.outputs[0].config["tie_word_embeddings"] is True
