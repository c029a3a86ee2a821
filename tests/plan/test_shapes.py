"""Ops whose models' tensors may differ in shape, and checkpoints that say what their numbers mean."""

from __future__ import annotations

import itertools

import pytest

from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.errors import PlanError, PluginError
from surgery.host import Host
from surgery.ops import Description, Group, NoParams, Op, Space, Split, op
from surgery.tensors import TensorSpec

UP = "model.layers.0.mlp.up_proj.weight"
_names = itertools.count()


def rows_of_all(signature, p):
    """Return the spec of everything stacked."""
    rows = sum(spec.shape[0] for spec in signature.models)
    return TensorSpec(signature.name, (rows, *signature.first.shape[1:]), "F32")


def columns_differ(signature, p):
    """Say that rows do not fit under one another."""
    return "columns differ; cut them" if len({spec.shape[1:] for spec in signature.models}) > 1 else None


@op("toy.stack", split=Split.TENSOR, shapes="any", infer=rows_of_all, check=columns_differ)
def stack(x, p: NoParams):
    """Put matrices under one another."""
    import torch

    return torch.cat(list(x.models))


@op("toy.pile", split=Split.GROUP, shapes="any", infer=rows_of_all, takes=Space.FACTORS, gives=Space.FACTORS)
class Pile(Group):
    """Put matrices of a group under one another."""

    def key(self, tensor, params):
        """Return one group."""
        return "all"

    def apply(self, members, params):
        """Return stacked models."""
        import torch

        return {name: torch.cat(list(x.models)) for name, x in members.items()}


@pytest.fixture(autouse=True)
def toys(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Op] = {made.name: made for made in (stack, Pile)}
    ask = host.op
    monkeypatch.setattr(host, "op", lambda name: known.get(name) or ask(name))


def factors(shape: tuple[int, ...], value: float) -> str:
    """Return a source of factors that is written under names of its own."""
    import numpy as np

    checkpoint = MemoryCheckpoint({UP: np.full(shape, value, np.float32)}, config={"kind": "few"})
    checkpoint.space = Space.FACTORS
    checkpoint.description = Description({"kind": "few"}, config_file="few.json", stem="few", sidecars=False)
    name = f"factors{next(_names)}"
    register_memory(name, checkpoint)
    return f"memory:{name}"


def test_models_of_different_shapes_are_planned_by_what_the_op_infers(plan, memory):
    made = plan("  m: {op: toy.stack, models: [a, c]}", a=memory({UP: (2, 4)}), c=memory({UP: (3, 4)}))
    (tensor,) = made.outputs[0].tensors
    assert tensor.spec.shape == (5, 4)


def test_what_does_not_fit_is_the_ops_to_say(plan, memory):
    with pytest.raises(PlanError, match=f"{UP}: columns differ; cut them"):
        plan("  m: {op: toy.stack, models: [a, c]}", a=memory({UP: (2, 4)}), c=memory({UP: (2, 5)}))


@pytest.mark.parametrize("split", [Split.ELEMENT, Split.ROW, Split.MODEL])
def test_an_op_that_sees_ranges_cannot_have_any_shapes(split):
    told = "op `toy.bad`: `shapes` may be any for TENSOR and GROUP ops only; leave it out"
    with pytest.raises(PluginError, match=told):
        op("toy.bad", split=split, shapes="any")(lambda x, p: None)


def test_a_checkpoint_says_what_its_numbers_mean(plan):
    with pytest.raises(
        PlanError, match=r"`toy\.mix` takes weights, `a` holds factors; apply them to a base first"
    ):
        plan("  m: {op: toy.mix, models: [a]}", a=factors((2, 4), 1))
    made = plan("  m: {op: toy.pile, models: [a, c]}", a=factors((2, 4), 1), c=factors((3, 4), 2))
    assert made.outputs[0].tensors[0].spec.shape == (5, 4)
    model = made.models["a"]
    assert (model.space, model.config_file, model.stem, model.bare) == (
        Space.FACTORS,
        "few.json",
        "few",
        True,
    )
    with pytest.raises(PlanError, match=r"`toy\.pile` takes factors, `b` holds weights"):
        plan("  m: {op: toy.pile, models: [a, b]}", a=factors((2, 4), 1))
