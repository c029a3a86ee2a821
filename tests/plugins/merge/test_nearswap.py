"""merge.nearswap: who is near becomes the model, who is far moves by t."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.nearswap import nearswap

FLOATS = st.floats(-100, 100, width=32)


@pytest.mark.parametrize(
    ("base", "model", "t", "wanted"),
    [
        ([0.0, 0.0, 0.0], [0.05, 0.1, 0.4], 0.1, [0.05, 0.1, 0.1]),
        ([0.0, 0.0], [0.1, 1.0], 0.2, [0.1, 0.2]),
        ([1.0, 1.0], [-1.0, 3.0], 0.5, [0.5, 1.5]),
    ],
)
def test_known_moves(base, model, t, wanted):
    OpCase(
        nearswap,
        {"t": t},
        models=[model],
        base=base,
        expected=wanted,
        identity=[Identity({"t": 0}, gives=BASE)],
        permutable=True,
    ).check()


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1), st.floats(1e-6, 10))
@settings(max_examples=50, deadline=None)
def test_it_equals_the_published_formula_in_float64(pairs, t):
    a, b = torch.tensor(pairs, dtype=torch.float32).T.contiguous()
    x, y = a.double(), b.double()
    share = (t / (x - y).abs().clamp(min=1e-6)).clamp(0, 1)
    wanted = share * y + (1 - share) * x
    assert torch.allclose(run_op(nearswap, {"t": t}, [b], a).double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_large_t_gives_the_bytes_of_the_model():
    base, model = torch.randn(1000), torch.randn(1000)
    assert same_bytes(run_op(nearswap, {"t": 100.0}, [model], base), model)


def test_infinities_and_nan_of_the_base_show():
    base, model = torch.tensor([float("nan"), float("inf")]), torch.tensor([0.0, 0.0])
    found = run_op(nearswap, {"t": 0.5}, [model], base)
    assert found[0].isnan()
    assert found[1].isinf()


def test_t_is_a_distance():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        run_op(nearswap, {"t": -0.1}, [torch.ones(1)], torch.ones(1))


def test_a_base_is_needed():
    with pytest.raises(OpError) as error:
        run_op(nearswap, {"t": 0.1}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
