"""Dtypes, rounding, copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import surgery
from surgery import CheckpointError, OpError, RunOptions
from surgery.checkpoint.memory import MemoryCheckpoint, register_memory

SCALE = {"m": {"op": "toy.scale", "model": "a", "factor": 1.7}}
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def refused(shop, steps, **top) -> str:
    with pytest.raises((CheckpointError, OpError)) as error:
        shop.run(steps, **top)
    return str(error.value)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
def test_numbers_are_rounded_once_to_nearest_even(shop, given, stored):
    a = shop.save("a", {"w": torch.randn(5000).to(DTYPES[given])})["w"]
    made = shop.run(SCALE, dtype=stored)["w"]
    compute = torch.float64 if given == "float64" else torch.float32
    exact = (a.to(compute) * 1.7).double()
    assert made.dtype == DTYPES[stored]
    assert torch.equal(made.double(), nearest(exact, DTYPES[stored]))


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return float64 rounded to nearest even, decided among the three neighbours by exact distance."""
    guess = exact.to(dtype)
    if dtype == torch.float64:
        return guess
    near = [torch.nextafter(guess, torch.full_like(guess, way)) for way in (-torch.inf, torch.inf)]
    candidates = torch.stack([guess, *near]).double()
    distance = (candidates - exact).abs()
    bits = torch.stack([guess, *near]).view(torch.int16 if guess.element_size() == 2 else torch.int32)
    # of two at one distance the even one
    order = distance * 2 + (bits & 1) * distance.min(0).values.clamp(min=1e-300) * 1e-3
    return candidates.gather(0, order.argmin(0, keepdim=True))[0]


def test_float64_is_rounded_once_not_over_float32(shop):
    # just above the middle between two bfloat16: over float32 it would fall on the middle, then to even
    middle = 1 + 2.0**-8
    shop.save("a", {"w": torch.tensor([middle + 2.0**-40, middle], dtype=torch.float64)})
    made = shop.run({"m": {"op": "toy.scale", "model": "a"}}, dtype="bfloat16")
    assert made["w"].tolist() == [1 + 2.0**-7, 1.0]


def test_one_float64_input_makes_the_whole_chain_float64(shop):
    a = shop.save("a", {"w": torch.randn(100)})["w"]
    b = shop.save("b", {"w": torch.randn(100, dtype=torch.float64)})["w"]
    steps = {
        "x": {"op": "toy.scale", "model": "a", "factor": 0.1},
        "y": {"op": "toy.linear", "models": {"x": 1, "b": 1}},
    }
    made = shop.run(steps)["w"]
    assert made.dtype == torch.float64
    assert torch.equal(made, b + a.double() * 0.1)


def test_whole_tensors_feed_a_float64_chain(shop):
    a = shop.save("a", {"w": torch.randn(5, 6)})["w"]
    b = shop.save("b", {"w": torch.randn(5, 6, dtype=torch.float64)})["w"]
    steps = {
        "x": {"op": "toy.gram", "model": "a"},
        "y": {"op": "toy.linear", "models": {"x": 1, "b": 1}},
    }
    x = (a.double() @ a.double().T @ a.double() / 5).float()
    assert torch.equal(shop.run(steps)["w"], b + x)


def test_mixed_dtypes_are_stored_in_what_holds_all(shop):
    shop.save("a", {"w": torch.ones(3).bfloat16()})
    shop.save("b", {"w": torch.ones(3).half()})
    assert shop.run({"m": {"op": "toy.linear", "models": ["a", "b"]}})["w"].dtype == torch.float32


def everything() -> dict[str, torch.Tensor]:
    raw = torch.randint(0, 256, (4, 6), dtype=torch.uint8)
    names = ["float8_e4m3fn", "float8_e5m2", "int8", "uint8"]
    tensors = {name: raw.clone().view(getattr(torch, name)) for name in names}
    tensors |= {f"int{n}": torch.arange(-3, 3, dtype=getattr(torch, f"int{n}")) for n in (16, 32, 64)}
    tensors["bool"] = torch.tensor([True, False])
    tensors["half"] = torch.randint(-(2**15), 2**15, (40,), dtype=torch.int16).view(torch.half)
    tensors["empty"] = torch.zeros(3, 0)
    tensors["no_ids"] = torch.zeros(0, dtype=torch.int64)
    tensors["scalar"] = torch.tensor(1.5)
    tensors["scalar_id"] = torch.tensor(7)
    tensors["big"] = torch.randn(5_000_000)
    return tensors


def test_unchanged_tensors_are_copied_as_bytes(shop):
    a = shop.save("a", everything() | {"w": torch.ones(2)})
    made = shop.run({"m": {"op": "toy.scale", "model": "a", "factor": 2, "where": "w"}})
    assert made.keys() == a.keys()
    assert made.pop("w").tolist() == [2, 2]
    for name, tensor in made.items():
        assert tensor.shape == a[name].shape, name
        assert tensor.dtype == a[name].dtype, name
        plain = torch.uint8 if tensor.dim() else tensor.dtype
        assert torch.equal(tensor.view(plain), a[name].view(plain)), name


def test_what_no_arithmetic_is_defined_on_is_copied_by_every_op(shop):
    a = shop.save("a", {"ids": torch.arange(5), "flag": torch.tensor([True]), "w": torch.ones(2)})
    made = shop.run(SCALE)
    assert torch.equal(made["ids"], a["ids"])
    assert torch.equal(made["flag"], a["flag"])


def test_a_scalar_and_a_cast_are_computed(shop):
    shop.save("a", {"s": torch.tensor(2.0), "empty": torch.zeros(0, 3)})
    made = shop.run({"m": {"op": "toy.scale", "model": "a", "factor": 1.5}}, dtype="float16")
    assert made["s"].item() == 3.0
    assert made["s"].dtype == made["empty"].dtype == torch.float16
    assert made["empty"].shape == (0, 3)


LINEAR = {"m": {"op": "toy.linear", "models": ["a", "b"]}}


def test_integers_that_differ_are_refused(shop):
    ids = torch.arange(1_000_000)
    shop.save("a", {"ids": ids, "w": torch.ones(2)})
    shop.save("b", {"ids": ids.roll(1), "w": torch.ones(2)})
    assert refused(shop, LINEAR) == (
        "step m: ids is I64 and differs between `./a` and `./b`, integers are not merged; "
        "set `on_int: first` to take the first"
    )


def test_integers_that_agree_are_copied(shop):
    shop.save("a", {"ids": torch.arange(1_000_000)})
    b = shop.save("b", {"ids": torch.arange(1_000_000)})
    assert torch.equal(shop.run(LINEAR)["ids"], b["ids"])


def test_on_int_first_takes_the_first(shop):
    a = shop.save("a", {"ids": torch.arange(5)})
    shop.save("b", {"ids": torch.arange(5) + 1})
    assert torch.equal(shop.run(LINEAR, on_int="first")["ids"], a["ids"])


def test_rows_of_integers_that_differ_elsewhere_are_copied(shop):
    a = shop.save("a", {"ids": torch.tensor([[1, 2], [3, 4], [5, 6]])})
    shop.save("b", {"ids": torch.tensor([[9, 9], [3, 4], [5, 6]])})
    steps = {**LINEAR, "c": {"op": "toy.cut", "model": "m", "rows": [1, 3]}}
    assert torch.equal(shop.run(steps)["ids"], a["ids"][1:])
    steps["c"]["rows"] = [0, 2]
    assert refused(shop, steps, to="other").startswith(
        "step m: ids is I64 and differs between `./a` and `./b`"
    )


def test_reading_a_file_that_was_cut_off_names_file_and_tensor(shop):
    shop.save("a", {"v": torch.randn(10), "w": torch.randn(1000)})
    resolved = shop.recipe(SCALE).resolve()
    file = shop.folder / "a" / "model.safetensors"
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.truncate(stat.st_size - 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: was changed after its header was read"):
        resolved.run(RunOptions(device="cpu"))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_scaling_by_one_changes_no_byte(toys, values):
    tensor = torch.tensor(values, dtype=torch.float32)
    register_memory("numbers", MemoryCheckpoint({"w": tensor}))
    text = """
surgery: 1
models: {a: "memory:numbers"}
steps: {m: {op: toy.scale, model: a, factor: 1}}
output: {model: m}
"""
    made = surgery.state_dict(surgery.loads(text, plugins=[toys]))["w"]
    assert torch.equal(made.view(torch.int32), tensor.view(torch.int32))


def test_sources_of_one_file_name_are_told_apart(shop):
    shop.save("a", {"w": torch.tensor([1.0])})
    shop.save("b", {"w": torch.tensor([2.0])})
    save_file({"w": torch.tensor([4.0])}, shop.folder / "c.safetensors")
    shop.models["c"] = "./c.safetensors"
    assert shop.run({"m": {"op": "toy.linear", "models": ["a", "b", "c"]}})["w"].item() == 7.0
