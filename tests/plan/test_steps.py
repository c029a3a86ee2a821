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
