"""An op's calls: the numbers of each tensor, and what tensors share."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.plan.nodes import Apply, Source

UP0, UP1 = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"


def nodes(plan):
    return {tensor.spec.name: tensor.node for tensor in plan.outputs[0].tensors}


def refused(call) -> str:
    with pytest.raises(PlanError) as error:
        call()
    return str(error.value)


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
