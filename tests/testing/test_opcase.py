"""OpCase passes ops that keep the contract, and names the law that another breaks."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import field_validator

from surgery.ops import BASE, Params, Reduce, Split, op
from surgery.scalars import Scalar
from surgery.testing import Identity, OpCase, same_bytes

TWO = torch.tensor([[1.0, -2.0], [3.0, 4.0]])


class Factor(Params):
    factor: Scalar = 2.0


@op(
    "t.scale",
    params=Factor,
    base="optional",
    simplify=lambda s, p: {0.0: BASE, 1.0: 0}.get(p.factor) if s.base or p.factor else None,
)
def scale(x, p):
    """Scale."""
    return torch.mul(x.models[0], p.factor, out=x.out)


def declared(function, **settings):
    function.__doc__ = "Break a law."
    return op("t.broken", **settings)(function)


def test_an_op_that_keeps_the_laws_passes():
    OpCase(
        scale,
        {"factor": 3.0},
        models=[TWO],
        base=torch.zeros(2, 2),
        expected=[[3, -6], [9, 12]],
        identity=[Identity({"factor": 1.0}), Identity({"factor": 0.0}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_a_ramp_survives_json_and_yaml():
    OpCase(scale, {"factor": {"mlp": [0.1, 1e-5], "default": 3}}, models=[TWO]).check()


def fails(case, law):
    with pytest.raises(AssertionError) as error:
        case.check()
    message = str(error.value)
    assert message.startswith((f"{case.op.name}: {law}: got ", f"op `{case.op.name}`: {law}: "))


def test_wrong_numbers():
    fails(OpCase(scale, models=[TWO], expected=TWO), "the expected numbers")
    fails(OpCase(scale, models=[TWO], expected=[2.0]), "the expected numbers")


def test_numbers_within_the_tolerance_pass():
    OpCase(scale, models=[TWO], expected=TWO * 2 + 1e-3, tolerance=1e-2).check()


def test_a_changed_input():
    fails(OpCase(declared(lambda x, p: x.models[0].neg_()), models=[TWO]), "inputs untouched")


def test_another_shape():
    def widen(x, p):
        return torch.cat([x.models[0], x.models[0]], 1)

    fails(OpCase(declared(widen, split=Split.TENSOR), models=[TWO]), "shape as inferred")


def test_results_that_change_from_run_to_run():
    calls = itertools.count()
    fails(OpCase(declared(lambda x, p: x.models[0] + next(calls)), models=[TWO]), "the same bytes twice")


def test_results_that_depend_on_the_chunk():
    fails(OpCase(declared(lambda x, p: x.models[0] / len(x.models[0])), models=[TWO]), "cut into 1 = whole")


def test_rows_that_depend_on_other_rows():
    def by_column(x, p):
        return x.models[0] / x.models[0].abs().amax(0)

    case = OpCase(declared(by_column, split=Split.ROW), models=[TWO], chunks=(1,))
    fails(case, "cut into 1 = whole")


def test_chunks_are_no_law_for_whole_tensors():
    OpCase(declared(lambda x, p: x.models[0] / len(x.models[0]), split=Split.TENSOR), models=[TWO]).check()


def test_an_identity_that_is_none():
    identity = [Identity({"factor": 2.0})]
    fails(OpCase(scale, models=[TWO], identity=identity), "identity gives the bytes of the model 0")
    same = OpCase(scale, models=[TWO], base=TWO * 3, identity=[Identity({"factor": 1.0}, gives=BASE)])
    fails(same, "identity gives the bytes of the base")


def test_an_identity_in_value_but_not_in_bytes():
    zero = torch.tensor([-0.0])
    case = OpCase(declared(lambda x, p: x.models[0] + 0.0), models=[zero], identity=[Identity()])
    fails(case, "identity gives the bytes of the model 0")


def test_a_constant_breaks_scale_equivariance():
    case = OpCase(declared(lambda x, p: x.models[0] + 1), models=[TWO], scale_equivariant=True)
    fails(case, "scale equivariance")


def test_order_breaks_permutation():
    class Ordered(Reduce):
        """Add the first element."""

        def gather(self, x, p, found):
            """Return it."""
            return x.models[0][0].item()

        def apply(self, x, p, found):
            """Add it."""
            return x.models[0] + found

    case = OpCase(op("t.broken")(Ordered), models=[torch.arange(9.0)], permutable=True)
    fails(case, "permuting the inputs permutes the result")


def test_a_fold_that_depends_on_its_grouping():
    class Halving(Reduce):
        """Average by halves."""

        def gather(self, x, p, found):
            """Return the block's mean."""
            return x.models[0].mean().item()

        def fold(self, total, part):
            """Take the middle."""
            return (total + part) / 2

        def apply(self, x, p, found):
            """Subtract it."""
            return x.models[0] - found

    case = OpCase(op("t.broken")(Halving), models=[torch.arange(9.0)])
    fails(case, "blocks folded in spans = one by one")


def test_parameters_that_change_when_they_are_read_again():
    class Doubling(Params):
        factor: float = 1.0

        @field_validator("factor")
        @classmethod
        def _double(cls, factor):
            return factor * 2

    case = OpCase(declared(lambda x, p: x.models[0] * 1, params=Doubling), {"factor": 3}, models=[TWO])
    fails(case, "parameters survive JSON")


def test_parameters_of_each_model_are_looked_at_too():
    class Tags(Params):
        tags: frozenset[str] | list[str] = frozenset()

    each = [{"tags": frozenset({"a"})}]
    fails(
        OpCase(declared(lambda x, p: x.models[0] * 1, each=Tags), models=[TWO], each=each),
        "parameters survive JSON",
    )


def test_same_bytes_looks_at_bits():
    assert same_bytes(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert same_bytes(torch.zeros(()), torch.zeros(()))
    assert not same_bytes(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bytes(torch.zeros(2), torch.zeros(1, 2))
    assert not same_bytes(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
