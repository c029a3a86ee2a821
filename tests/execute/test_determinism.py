"""The same recipe and inputs give the same bytes, however the work is cut and spread."""

from __future__ import annotations

import pytest
import torch

from surgery import RunOptions
from surgery.ops import BLOCK

# every split, in chains that cut each other's ranges at odd places
STEPS = {
    "sum": {"op": "toy.linear", "models": {"a": 0.7, "b": 0.3, "c": {"weight": [0.1, 0.9]}}},
    "noisy": {"op": "toy.dither", "model": "sum", "factor": 0.1},
    "rows": {"op": "toy.row_max", "model": "noisy"},
    "squashed": {"op": "toy.sigmoid", "model": "rows"},
    "normed": {"op": "toy.norm", "model": "squashed"},
    "standard": {"op": "toy.standard", "models": ["normed", "a"], "where": ["layers.1", "big"]},
    "sampled": {"op": "toy.sampled", "model": "standard", "base": "b", "where": "layers.2"},
    "gram": {"op": "toy.gram", "model": "sampled", "where": ["layers.0", "layers.1"]},
    "shared": {"op": "toy.share", "model": "gram"},
    "largest": {"op": "toy.largest", "models": ["shared"]},
    "end": {"op": "toy.sigmoid", "model": "largest", "where": "big"},
}

CHUNKS = [1, 100, 4096, BLOCK - 1, 3 * BLOCK, 1 << 24]


def models(shop) -> None:
    for index, name in enumerate("abc"):
        generator = torch.Generator().manual_seed(index)
        shapes = {f"layers.{layer}.w": (17 + layer, 13) for layer in range(3)} | {"layers.2.v": (301, 67)}
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        shop.save(name, {key: values.bfloat16() for key, values in tensors.items()})


def with_big(shop) -> None:
    models(shop)
    for index, name in enumerate("abc"):
        big = torch.randn(BLOCK // 300 + 200, 301, generator=torch.Generator().manual_seed(index))
        shop.save(name, shop.read(name) | {"big": big})


@pytest.fixture
def cut(shop):
    """Return the bytes of the long chain under some options."""
    models(shop)
    steps = {name: step for name, step in STEPS.items() if name != "end"}
    steps["standard"] = steps["standard"] | {"where": "layers.1"}

    def run(to: str = "out", **options) -> dict[str, bytes]:
        shop.run(steps, RunOptions(device="cpu", force=True, **options), to=to)
        return shop.data(to)

    return run


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunk_size_changes_no_byte(cut, chunk):
    assert cut("cut", chunk=chunk, threads=2) == cut("whole", threads=2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_byte(shop, threads):
    with_big(shop)
    shop.run(STEPS, RunOptions(device="cpu", threads=threads))
    torch.set_num_threads(2)
    shop.run(STEPS, RunOptions(device="cpu", threads=1), to="other")
    assert shop.data() == shop.data("other")
    assert shop.report.workers == 1


def test_torch_threads_are_what_they_were_after_a_run(shop):
    models(shop)
    torch.set_num_threads(2)
    shop.run({"m": {"op": "toy.norm", "model": "a"}})
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("chunk", [1, 64, 1000, 5000])
def test_big_chunks_and_small_agree_where_torch_has_a_tail(shop, chunk):
    a = shop.save("a", {"w": torch.randn(10_007)})["w"]
    made = shop.run({"m": {"op": "toy.sigmoid", "model": "a"}}, RunOptions(device="cpu", chunk=chunk))
    assert torch.equal(made["w"], torch.sigmoid(a))


def test_a_row_op_in_the_same_job_changes_no_byte(shop):
    a = shop.save("a", {"w": torch.randn(2, 100_003)})["w"]
    outputs = {"rows": {"model": "r", "to": "./rows"}, "plain": {"model": "s", "to": "./plain"}}
    steps = {"s": {"op": "toy.sigmoid", "model": "a"}, "r": {"op": "toy.row_max", "model": "s"}}
    shop.recipe(steps, outputs=outputs).run(RunOptions(device="cpu", chunk=64))
    assert torch.equal(shop.read("plain")["w"], torch.sigmoid(a))
    row_max = torch.sigmoid(a) / torch.sigmoid(a).amax(1, keepdim=True)
    assert torch.equal(shop.read("rows")["w"], row_max)


def test_the_order_of_models_changes_no_byte(shop):
    models(shop)
    shop.run({"m": {"op": "toy.linear", "models": {"a": 0.7, "b": 0.3, "c": 0.2}}})
    shop.run({"m": {"op": "toy.linear", "models": {"c": 0.2, "a": 0.7, "b": 0.3}}}, to="other")
    assert shop.data() == shop.data("other")


def test_a_second_run_makes_the_same_bytes(cut):
    assert cut("first") == cut("second")


def test_several_outputs_in_one_pass_equal_separate_runs(shop):
    with_big(shop)
    chosen = ["noisy", "rows", "normed", "standard", "gram", "shared", "largest", "end"]
    outputs = {name: {"model": name, "to": f"./together/{name}"} for name in chosen}
    shop.recipe(STEPS, outputs=outputs).run(RunOptions(device="cpu", threads=2))
    for name in chosen:
        until = dict(list(STEPS.items())[: list(STEPS).index(name) + 1])
        shop.run(until, to=f"alone/{name}")
        assert shop.data(f"together/{name}") == shop.data(f"alone/{name}"), name


def test_an_op_that_returns_float64_is_rounded_for_the_next_op_and_once_at_the_end(shop):
    a = shop.save("a", {"w": torch.randn(1000)})["w"]
    steps = {"x": {"op": "toy.wide", "model": "a"}, "y": {"op": "toy.scale", "model": "x", "factor": 3}}
    wide = a.double() * (1 + 2.0**-30)
    assert torch.equal(shop.run(steps)["w"], wide.float() * 3)
    alone = shop.run({"x": steps["x"]}, to="alone", dtype="float64")
    assert torch.equal(alone["w"], wide)


def test_rows_of_a_result_are_the_same_bytes_as_in_the_whole_result(shop):
    a = shop.save("a", {"w": torch.randn(40, 107)})["w"]
    steps = {"s": {"op": "toy.sigmoid", "model": "a"}, "c": {"op": "toy.cut", "model": "s", "rows": [3, 20]}}
    assert torch.equal(shop.run(steps)["w"], torch.sigmoid(a)[3:20])
