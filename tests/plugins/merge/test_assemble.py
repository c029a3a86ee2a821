"""merge.assemble: bytes of a parent, mixes, and the difference that decides between them."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import Scan
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.assemble import AssembleOp


def weights(*numbers):
    return [{"weight": number} for number in numbers]


def test_a_quarter_and_three_quarters_of_two_parents():
    OpCase(
        AssembleOp,
        models=[[1.0, 2.0], [5.0, -2.0]],
        each=weights(1, 3),
        expected=[4.0, -1.0],
        identity=[
            Identity(each=weights(1, 0), gives=0),
            Identity(each=weights(0, 1), gives=1),
            Identity({"delta": 1e30}, gives=0),
            Identity({"delta": 1e30}, each=weights(0, 1), gives=0),
            Identity({"delta": 0.5}, each=weights(0, 1), gives=1),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


# |θ1| = 5; the second differs by 3 (relative 0.6, root mean square 1.5), the third by 1
PARENTS = [[3.0, 4.0, 0.0, 0.0], [3.0, 4.0, 3.0, 0.0], [3.0, 4.0, 0.0, 1.0]]
MIXED, FIRST = [3.0, 4.0, 1.0, 1 / 3], PARENTS[0]


@pytest.mark.parametrize(
    ("norm", "delta", "wanted"),
    [
        ("relative", 0.59, MIXED),
        ("relative", 0.61, FIRST),
        ("rms", 1.49, MIXED),
        ("rms", 1.5, FIRST),
        ("rms", 1.51, FIRST),
    ],
)
def test_the_greatest_difference_decides(norm, delta, wanted):
    case = OpCase(
        AssembleOp,
        {"norm": norm, "delta": delta},
        models=PARENTS,
        each=weights(1, 1, 1),
        expected=wanted,
    )
    case.check()


def test_a_model_without_weight_does_not_decide():
    params = {"delta": 0.3}
    mixed = run_op(AssembleOp, params, [torch.tensor(p) for p in PARENTS], each=weights(1, 0, 1))
    assert same_bytes(mixed, torch.tensor(FIRST))


def test_a_first_model_of_zeros_is_always_far_away():
    models = [torch.zeros(2), torch.tensor([1e-9, 0.0])]
    assert same_bytes(run_op(AssembleOp, {"delta": 9.0}, models, each=weights(0, 1)), models[1])
    assert same_bytes(run_op(AssembleOp, {"delta": 9.0}, [models[0]] * 2, each=weights(1, 1)), models[0])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (11, 201)])
def test_a_mix_equals_the_sum_in_float64(shape, normalize):
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(shape, generator=generator)
    models = [base + 0.01 * torch.randn(shape, generator=generator) for _ in range(3)]
    shares = (0.5, 0.3, 1.1)
    wanted = sum(w * m.double() for w, m in zip(shares, models, strict=True))
    OpCase(
        AssembleOp,
        {"normalize": normalize, "delta": 1e-6},
        models=models,
        each=weights(*shares),
        expected=wanted / sum(shares) if normalize else wanted,
        chunks=(1, 100),
    ).check()


def test_equal_parents_stay_as_they_are():
    model = torch.tensor([0.1, 0.7, -3.3])
    assert same_bytes(run_op(AssembleOp, {}, [model] * 3, each=weights(0.7, 0.2, 0.1)), model)


def test_differences_are_read_only_where_they_decide():
    models = [torch.ones(3), torch.zeros(3)]
    signature = signature_of(AssembleOp, models, None, weights(1, 1))
    scan = AssembleOp.implementation.scan
    assert scan(signature, AssembleOp.params(), None, 0) is None
    gated = AssembleOp.params(delta=0.1)
    assert scan(signature, gated, None, 0) is Scan.ALL
    assert scan(signature, gated, True, 1) is None


def test_a_tensor_that_one_parent_alone_has_is_copied():
    model = torch.tensor([0.3])
    assert same_bytes(run_op(AssembleOp, {"delta": 1.0}, [model], each=weights(2)), model)


def test_weights_that_cancel_are_refused():
    with pytest.raises(OpError) as error:
        run_op(AssembleOp, {}, [torch.ones(1)] * 2, each=weights(1, -1))
    assert str(error.value) == (
        "w: the weights 1, -1 sum to 0, which normalize divides by; change one or set normalize: false"
    )
