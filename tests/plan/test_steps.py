"""A step becomes a virtual model: which tensors its op works on, and which are copied."""

from __future__ import annotations

import subprocess
import sys

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


def test_every_tensor_of_a_merge_is_an_op_on_all_models(plan):
    made = nodes(plan("  m: {op: toy.mix, models: [a, b]}"))
    assert len(made) == 5
    assert all(isinstance(node, Apply) and len(node.models) == 2 for node in made.values())


def test_where_copies_the_other_tensors_from_the_first_model(plan):
    made = nodes(plan("  m: {op: toy.mix, models: [a, b], where: mlp}"))
    assert {name for name, node in made.items() if isinstance(node, Apply)} == {UP0, UP1}
    assert isinstance(made["model.norm.weight"], Source)


def test_a_selector_that_matches_nothing_is_refused(plan):
    message = refused(lambda: plan("  m: {op: toy.mix, models: [a, b], where: experts}"))
    assert message == (
        "<recipe>:4:43: steps.m.where: selects no tensor; see the names with `surgery inspect`"
    )


def test_layers_behind_the_last_are_refused_with_how_many_there_are(plan):
    there = "there are 2 layers, `layers[0:2]`"
    for where, told in (
        ("layers[0:99].mlp", f"selector `layers[0:99].mlp` goes past the last layer; {there}"),
        ("layers[2]", f"selects no tensor; {there}"),
        ("layers[2:]", f"selects no tensor; {there}"),
    ):
        message = refused(lambda where=where: plan(f"  m: {{op: toy.mix, models: [a, b], where: '{where}'}}"))
        assert message == f"<recipe>:4:43: steps.m.where: {told}"
    weight = "{'layers[:3].mlp': 0.1, 'layers[0:2]': 1, default: 0}"
    message = refused(lambda: plan(f"  m: {{op: toy.mix, models: {{a: {{weight: {weight}}}, b: 1}}}}"))
    assert message.endswith(f"steps.m.models.a: selector `layers[:3].mlp` goes past the last layer; {there}")


def test_layers_behind_the_last_may_be_warned_of_instead(plan):
    steps = "  m: {op: toy.mix, models: {a: {weight: {'layers[0:3]': 0.1, default: 0}}, b: 1}, where: 'layers[:9]'}"
    warnings = plan(steps, extra="on_unmatched: warn\n").warnings
    assert [finding.what.partition(";")[0] for finding in warnings if "selector" in finding.what] == [
        "selector `layers[:9]` goes past the last layer",
        "selector `layers[0:3]` goes past the last layer",
    ]


def test_a_selector_that_is_misspelled_beside_others_is_refused(plan):
    """It would take nothing, or take nothing away, and nobody would know."""
    message = refused(lambda: plan('  m: {op: toy.mix, models: [a, b], where: ["*", "!nrom", "!router"]}'))
    assert message == (
        "<recipe>:4:49: steps.m.where[1]: selector `!nrom` matches no tensor; did you mean `norm`?\n"
        "<recipe>:4:58: steps.m.where[2]: selector `!router` matches no tensor; see the names with `surgery inspect`"
    )


def test_a_selection_that_takes_all_away_again_is_refused(plan):
    message = refused(lambda: plan('  m: {op: toy.mix, models: [a, b], where: [mlp, "!mlp"]}'))
    assert message == (
        "<recipe>:4:43: steps.m.where: selects no tensor; see the names with `surgery inspect`"
    )


def test_an_op_on_matrices_copies_vectors(plan):
    made = nodes(plan("  m: {op: toy.scale, model: a}"))
    assert isinstance(made["model.norm.weight"], Source)
    assert isinstance(made["lm_head.weight"], Apply)


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
