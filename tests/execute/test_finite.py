"""What happens to NaN, Inf and overflow."""

from __future__ import annotations

import pytest
import torch

from surgery import CheckpointError, OpError
from surgery.ops import BLOCK

SCALE = {"m": {"op": "toy.scale", "model": "a", "factor": 1.7}}


def refused(shop, steps, **top) -> str:
    with pytest.raises((CheckpointError, OpError)) as error:
        shop.run(steps, **top)
    return str(error.value)


MEND = "mend the file or set `on_nonfinite: zero` or `keep`"
TEXT = "{file}: w holds {count} NaN or Inf, first at element {first}; " + MEND


def nan_at(numel: int, *places: int, value: float = float("nan")) -> torch.Tensor:
    x = torch.ones(numel)
    x[list(places)] = value
    return x


@pytest.mark.parametrize("op", ["scale", "positive", "norm", "standard", "sampled", "row_max", "largest"])
def test_nan_in_an_input_is_counted_in_the_whole_tensor(shop, op):
    shop.save("a", {"w": nan_at(3 * BLOCK, BLOCK + 5, 2 * BLOCK, 3 * BLOCK - 1), "v": torch.arange(1.0, 6.0)})
    key = {"models": ["a"]} if op in ("standard", "largest") else {"model": "a"}
    file = shop.folder / "a" / "model.safetensors"
    text = refused(shop, {"m": {"op": f"toy.{op}", **key}})
    assert text == TEXT.format(file=file, count=3, first=BLOCK + 5)


def test_inf_is_refused_too_and_the_base_is_looked_at(shop):
    shop.save("a", {"w": torch.ones(9)})
    shop.save("b", {"w": nan_at(9, 7, value=-torch.inf)})
    file = shop.folder / "b" / "model.safetensors"
    text = refused(shop, {"m": {"op": "toy.delta", "model": "a", "base": "b"}})
    assert text == TEXT.format(file=file, count=1, first=7)


@pytest.mark.parametrize("op", ["gram", "share"])
def test_nan_in_the_input_of_a_whole_tensor_op_is_the_files_fault(shop, op):
    shop.save("a", {"layers.0.w": nan_at(12, 3).view(3, 4)})
    text = refused(shop, {"m": {"op": f"toy.{op}", "model": "a"}})
    assert text.endswith(
        "layers.0.w holds 1 NaN or Inf, first at element 3; mend the file or set `on_nonfinite: zero` or `keep`"
    )


def test_nan_is_found_through_rows_and_when_only_the_dtype_changes(shop):
    shop.save("a", {"w": nan_at(12, 7).view(4, 3)})
    cut = {"c": {"op": "toy.cut", "model": "a", "rows": [2, 4]}}
    positive = {"p": {"op": "toy.positive", "model": "c"}}
    file = shop.folder / "a" / "model.safetensors"
    wanted = TEXT.format(file=file, count=1, first=7)
    assert refused(shop, cut | positive) == wanted
    assert refused(shop, cut, dtype="float16") == wanted


def test_nan_that_is_copied_as_bytes_stays(shop):
    shop.save("a", {"w": nan_at(4, 2), "v": torch.ones(2)})
    made = shop.run({"m": {"op": "toy.scale", "model": "a", "where": "v"}})
    assert made["w"].isnan().tolist() == [False, False, True, False]


def test_on_nonfinite_zero_takes_them_for_zero(shop):
    a = shop.save("a", {"w": torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])})
    made = shop.run(SCALE, on_nonfinite="zero")
    assert torch.equal(made["w"], torch.tensor([1.0, 0, 0, 0]) * 1.7)
    assert a["w"].isnan().any()


def test_on_nonfinite_keep_computes_with_them(shop):
    shop.save("a", {"w": torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])})
    made = shop.run(SCALE, on_nonfinite="keep", dtype="float16")["w"]
    assert made.isnan().tolist() == [False, True, False, False]
    assert made[2:].tolist() == [torch.inf, -torch.inf]


def test_nan_that_an_op_makes_is_the_ops_fault(shop):
    shop.save("a", {"w": torch.zeros(4, 3)})
    assert refused(shop, {"m": {"op": "toy.row_max", "model": "a"}}) == (
        "step m: `toy.row_max` makes NaN or Inf of finite numbers in w, at element 0; check its parameters"
    )
    text = refused(shop, {"m": {"op": "toy.row_max", "model": "a"}}, on_nonfinite="zero", to="zero")
    assert text.startswith("step m: `toy.row_max` makes NaN or Inf of finite numbers in w, at element 0")
    kept = shop.run({"m": {"op": "toy.row_max", "model": "a"}}, on_nonfinite="keep", to="keep")
    assert kept["w"].isnan().all()


def test_numbers_too_large_for_the_stored_dtype_are_refused(shop):
    x = torch.ones(2 * BLOCK)
    x[BLOCK + 3] = 123456.0
    shop.save("a", {"w": x})
    assert refused(shop, {"m": {"op": "toy.scale", "model": "a"}}, dtype="float16") == (
        f"w: 123456 at element {BLOCK + 3} is too large for float16; write `output.dtype: bfloat16` or `float32`"
    )


def test_on_nonfinite_keep_stores_what_is_too_large_as_infinity(shop):
    shop.save("a", {"w": torch.tensor([1e6, -1e6])})
    made = shop.run({"m": {"op": "toy.scale", "model": "a"}}, dtype="float16", on_nonfinite="keep")
    assert made["w"].tolist() == [torch.inf, -torch.inf]
