"""merge.cast: numbers as a file would hold them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.testing import OpCase, run_op
from surgery_merge.cast import cast

ODD = torch.tensor([1.003, -2.0, 3.14159])


def test_bfloat16_keeps_eight_bits():
    OpCase(cast, {"dtype": "bfloat16"}, models=[ODD], expected=[1.0, -2.0, 3.140625], tolerance=0).check()


def test_half_way_goes_to_the_even_neighbour():
    half_way = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
    assert run_op(cast, {"dtype": "bfloat16"}, [half_way]).tolist() == [1.0, 1 + 2**-6]


def test_without_a_dtype_it_is_the_models_own():
    assert run_op(cast, {}, [ODD.to(torch.float16)]).dtype == torch.float16
    assert torch.equal(run_op(cast, {}, [ODD]), ODD)


def test_the_result_is_of_the_dtype():
    assert run_op(cast, {"dtype": "float16"}, [ODD]).dtype == torch.float16
    assert run_op(cast, {"dtype": "float32"}, [ODD.double()]).dtype == torch.float32


def test_what_is_beyond_the_range_is_infinite():
    assert run_op(cast, {"dtype": "float16"}, [torch.tensor([70000.0])]).item() == float("inf")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@given(values=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_it_is_what_torch_stores(dtype, values):
    x = torch.tensor(values)
    assert torch.equal(run_op(cast, {"dtype": dtype}, [x]), x.to(getattr(torch, dtype)))
