"""GROUP ops on several models at once."""

from __future__ import annotations

import torch

from surgery.ops import Group, Params, Split, op
from surgery.plan.virtual import PLAIN
from surgery.scalars import Scalar
from surgery.tensors import TensorSpec
from surgery.testing.runner import run_group_op


class Weight(Params):
    """Parameters of each model."""

    weight: Scalar = 1.0


def _wider(signature, p):
    return TensorSpec(signature.name, (sum(spec.shape[0] for spec in signature.models),), "F32")


@op("toy.join", split=Split.GROUP, shapes="any", each=Weight, infer=_wider)
class Join(Group):
    """Join vectors of all models, each less the sum of its group's."""

    def key(self, tensor, params):
        """Group by the first word."""
        return tensor.spec.name.partition(".")[0] if "." in tensor.spec.name else None

    def apply(self, members, params):
        """Subtract sums, join."""
        totals = [sum(x.models[i].sum() for x in members.values()) for i in range(2)]
        return {
            name: torch.cat(
                [m * e.weight - t for m, e, t in zip(x.models, x.signature.each, totals, strict=True)]
            )
            for name, x in members.items()
        }


def test_a_group_sees_every_models_tensors_in_shapes_of_their_own():
    first = {"g.a": torch.tensor([1.0]), "g.b": torch.tensor([2.0]), "c": torch.tensor([7.0])}
    second = {"g.a": torch.tensor([10.0, 20.0]), "g.b": torch.tensor([0.0, 0.0]), "c": torch.tensor([8.0])}
    made = run_group_op(Join, {}, first, PLAIN, others=[second], each=[{"weight": 2.0}, {}])
    assert {name: tensor.tolist() for name, tensor in made.items()} == {
        "g.a": [-1, -20, -10],
        "g.b": [1, -30, -30],
        "c": [7],
    }
