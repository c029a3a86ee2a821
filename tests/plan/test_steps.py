"""A step becomes a virtual model: what happens to every tensor, and what is refused."""

from __future__ import annotations

import subprocess
import sys

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


def test_every_tensor_of_a_merge_is_an_op_on_all_models(plan):
    made = nodes(plan("  m: {op: toy.mix, models: [a, b]}"))
    assert len(made) == 5
    assert all(isinstance(node, Apply) and len(node.models) == 2 for node in made.values())


def test_models_are_sorted_so_that_their_order_cannot_matter(plan):
    node = nodes(plan("  m: {op: toy.mix, models: {c: 3, a: 1, b: 2}}"))[UP0]
    assert [params.weight for params in node.signature.each] == [1, 2, 3]


@pytest.mark.parametrize(("extra", "ends"), [("", 1.0), ("head_depth: 1", 1.0), ("head_depth: 0", 0.25)])
def test_ramps_end_at_the_head_or_leave_it_with_the_embeddings(plan, extra, ends):
    made = nodes(plan("  m: {op: toy.mix, models: {a: {weight: [0.25, 1]}}}", extra=extra))
    weights = {name: node.signature.each[0].weight for name, node in made.items()}
    assert (weights["model.embed_tokens.weight"], weights[UP0], weights[UP1]) == (0.25, 0.25, 1)
    assert (weights["model.norm.weight"], weights["lm_head.weight"]) == (ends, ends)


def test_a_selector_that_matches_nothing_may_be_a_warning(plan):
    made = plan(
        "  m: {op: toy.mix, models: {a: {weight: {router: 2, default: 1}}}}", extra="on_unmatched: warn"
    )
    assert [str(warning) for warning in made.warnings if "router" in str(warning)] == [
        "<recipe>:4:32: steps.m.models.a: selector `router` matches no tensor; see the names with `surgery inspect`"
    ]


def test_where_copies_the_other_tensors_from_the_first_model(plan):
    made = nodes(plan("  m: {op: toy.mix, models: [a, b], where: mlp}"))
    assert {name for name, node in made.items() if isinstance(node, Apply)} == {UP0, UP1}
    assert isinstance(made["model.norm.weight"], Source)


def test_a_selector_that_matches_nothing_is_refused(plan):
    message = refused(lambda: plan("  m: {op: toy.mix, models: [a, b], where: experts}"))
    assert message == (
        "<recipe>:4:43: steps.m.where: selects no tensor; see the names with `surgery inspect`"
    )


def test_ramps_and_selector_maps_become_numbers(plan):
    made = nodes(plan("  m: {op: toy.mix, models: {a: {weight: [0, 1]}, b: {weight: {mlp: 5, default: 7}}}}"))
    weights = {name: tuple(params.weight for params in node.signature.each) for name, node in made.items()}
    assert weights == {
        "model.embed_tokens.weight": (0, 7),
        UP0: (0, 5),
        UP1: (1, 5),
        "model.norm.weight": (1, 7),
        "lm_head.weight": (1, 7),
    }


@pytest.mark.parametrize(
    ("op", "number"),
    [
        ("peak", "amount: [0, 1]"),
        ("peak", "amount: {mlp: 1, default: 2}"),
        ("layer_peak", "amount: [0, 1]"),  # what is outside of layers shares one, too
    ],
)
def test_tensors_that_share_a_statistic_have_the_same_numbers(plan, op, number):
    message = refused(lambda: plan(f"  m: {{op: toy.{op}, models: [a], {number}}}"))
    assert message == (
        "<recipe>:4:6: steps.m: a ramp or a map of selectors has no meaning for tensors that share a statistic; "
        "write numbers, or choose tensors that do not with `where:`"
    )


def test_a_pool_of_each_layer_may_have_numbers_of_its_own(plan):
    made = nodes(plan("  m: {op: toy.layer_peak, models: [a], amount: [0, 1], where: 'layers[0:2]'}"))
    pools = {
        id(node.scope): sorted(member.params.amount for member in node.scope.members)
        for node in made.values()
        if isinstance(node, Apply)
    }
    assert sorted(pools.values()) == [[0], [1]]


def test_tensors_with_the_same_numbers_share_one_parameters_object(plan):
    made = nodes(plan("  m: {op: toy.mix, models: {a: {weight: [0, 1]}, b: 1}}"))
    assert made[UP1].signature.each[0] is made["model.norm.weight"].signature.each[0]


def test_a_case_that_matches_nothing_and_a_tensor_without_case_are_both_told(plan):
    message = refused(lambda: plan("  m: {op: toy.mix, models: {a: {weight: {mlp: 1, router: 2}}, b: 1}}"))
    assert message.splitlines() == [
        "<recipe>:4:32: steps.m.models.a: selector `router` matches no tensor; see the names with `surgery inspect`",
        "<recipe>:4:32: steps.m.models.a: no case gives weight for model.embed_tokens.weight and 2 more tensors; "
        "add `default:`",
    ]


def test_an_op_may_say_that_the_base_is_the_result(plan):
    made = nodes(plan("  m: {op: toy.toward, base: a, models: [b], amount: {mlp: 1, default: 0}}"))
    assert isinstance(made[UP0], Apply)
    assert isinstance(made["lm_head.weight"], Source)


def test_an_op_on_matrices_copies_vectors(plan):
    made = nodes(plan("  m: {op: toy.scale, model: a}"))
    assert isinstance(made["model.norm.weight"], Source)
    assert isinstance(made["lm_head.weight"], Apply)


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


def test_steps_feed_steps(plan):
    made = nodes(plan("  s: {op: toy.scale, model: a, amount: 2}\n  m: {op: toy.mix, models: [s, b]}"))
    inner = made[UP0].models
    assert sorted(type(node).__name__ for node in inner) == ["Apply", "Source"]


def test_planning_imports_no_torch():
    code = (
        "import sys, tests.plan.conftest as c; from surgery.host import Host; from surgery.plan.resolve import resolve;"
        "import surgery.plan.steps, surgery.schedule.order; Host().ops(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
