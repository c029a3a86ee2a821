"""What ops that make or take something else than weights say: `rest`, `partial`, `note`, and where masks are known."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.host import Host
from surgery.ops import NoParams, Op, Space, op
from surgery.plan.nodes import Apply, Source
from surgery.tensors import TensorSpec

UP0 = "model.layers.0.mlp.up_proj.weight"


@op(
    "toy.sign",
    models=1,
    gives=Space.MASK,
    rest="drop",
    vectors="skip",
    note="a mask takes a byte per weight",
    infer=lambda signature, p: TensorSpec(signature.name, signature.first.shape, "BOOL"),
)
def sign(x, p: NoParams):
    """Make a mask of positive weights."""
    return (x.models[0] > 0).float()


@op(
    "toy.masked",
    base="required",
    models=1,
    takes=Space.MASK,
    partial=True,
    infer=lambda signature, p: signature.first,
)
def masked(x, p: NoParams):
    """Apply a mask."""
    return x.base * x.models[0]


@pytest.fixture(autouse=True)
def toys(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Op] = {made.name: made for made in (sign, masked)}
    ask = host.op
    monkeypatch.setattr(host, "op", lambda name: known.get(name) or ask(name))


def nodes(plan):
    return {tensor.spec.name: tensor.node for tensor in plan.outputs[0].tensors}


def test_tensors_that_are_not_worked_on_are_left_out(plan):
    made = nodes(plan("  m: {op: toy.sign, model: a, where: mlp}"))
    assert all("mlp" in name and node.spec.dtype == "BOOL" for name, node in made.items())
    assert "model.norm.weight" not in nodes(plan("  m: {op: toy.sign, model: a}"))


def test_what_a_mask_lacks_is_copied_from_the_base(plan):
    made = nodes(
        plan(
            "  m: {op: toy.sign, model: a, where: mlp}\n  k: {op: toy.masked, base: a, model: m}",
            "{model: k}",
        )
    )
    assert isinstance(made[UP0], Apply)
    assert made[UP0].spec.dtype == "F32"
    assert isinstance(made["model.norm.weight"], Source)


def test_a_note_is_a_warning_of_the_plan(plan):
    warnings = plan("  m: {op: toy.sign, model: a}").warnings
    assert "a mask takes a byte per weight" in [finding.what for finding in warnings]


def test_a_mask_is_no_model_to_merge(plan):
    with pytest.raises(PlanError, match=r"`toy.mix` takes weights, `m` holds masks"):
        plan("  m: {op: toy.sign, model: a}\n  k: {op: toy.mix, models: [a, m]}", "{model: k}")


def test_a_checkpoint_of_truth_values_is_a_mask(plan, memory):
    kept = memory({UP0: (6, 4)}, np.bool_)
    made = nodes(plan("  m: {op: toy.masked, base: a, model: c}", c=kept))
    assert [name for name, node in made.items() if isinstance(node, Apply)] == [UP0]
    with pytest.raises(PlanError, match=r"`toy.masked` takes masks, `b` holds weights"):
        plan("  m: {op: toy.masked, base: a, model: b}")


def test_a_mask_of_what_the_base_lacks_is_refused(plan, memory):
    kept = memory({UP0: (6, 4), "x": (2, 2), "y": (2, 2)}, np.bool_)
    with pytest.raises(PlanError) as error:
        plan("  m: {op: toy.masked, base: a, model: c}", c=kept)
    assert str(error.value) == (
        "<recipe>:4:6: steps.m: `c` has x, which the base lacks (and 1 more such tensors); "
        "it was made for another model"
    )
