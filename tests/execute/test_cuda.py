"""On an accelerator: the same results as on the CPU, through pinned memory and a stream for each worker."""

from __future__ import annotations

import pytest
import torch

from surgery import CheckpointError, OpError, RunOptions
from surgery.execute.arena import Arena
from surgery.ops import BLOCK

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

STEPS = {
    "sum": {"op": "toy.linear", "models": {"a": 0.7, "b": 0.3}},
    "noisy": {"op": "toy.dither", "model": "sum", "factor": 0.1},
    "rows": {"op": "toy.row_index", "model": "noisy", "base": "a"},
    "normed": {"op": "toy.norm", "model": "rows"},
    "standard": {"op": "toy.standard", "models": ["normed", "a"]},
    "sampled": {"op": "toy.sampled", "model": "standard"},
    "gram": {"op": "toy.gram", "model": "sampled", "where": "layers.0"},
    "shared": {"op": "toy.share", "model": "gram"},
    "largest": {"op": "toy.largest", "models": ["shared"]},
}


@pytest.fixture
def two(shop):
    for name in "ab":
        tensors = {f"layers.{i}.w": torch.randn(300 + i, 700).bfloat16() for i in range(3)}
        shop.save(name, tensors | {"big": torch.randn(3 * BLOCK + 5), "ids": torch.arange(5)})
    return shop


@pytest.mark.parametrize("until", list(STEPS))
def test_results_are_those_of_the_cpu(two, until):
    steps = dict(list(STEPS.items())[: list(STEPS).index(until) + 1])
    cpu = two.run(steps, RunOptions(device="cpu"), to="cpu", dtype="float32")
    cuda = two.run(steps, RunOptions(device="cuda", threads=3), to="cuda", dtype="float32")
    assert two.report.device == "cuda"
    for name, wanted in cpu.items():
        torch.testing.assert_close(cuda[name], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [64, 10_000, 1 << 24])
def test_chunks_change_no_byte_there_either(two, chunk):
    steps = {name: STEPS[name] for name in ("sum", "noisy")}
    two.run(steps, RunOptions(device="cuda", threads=3, chunk=chunk), to="cut")
    two.run(steps, RunOptions(device="cuda", threads=1), to="whole")
    assert two.data("cut") == two.data("whole")


def test_element_ops_of_one_operation_give_the_bytes_of_the_cpu(two):
    steps = {"m": {"op": "toy.dither", "model": "a", "factor": 1}}
    two.run(steps, RunOptions(device="cuda"), to="cuda")
    two.run(steps, RunOptions(device="cpu"), to="cpu")
    assert two.data("cuda") == two.data("cpu")


def test_samples_are_read_before_their_buffers_are_used_again(two):
    steps = {"n": {"op": "toy.scale", "model": "a", "factor": 2}, "m": {"op": "toy.sampled", "model": "n"}}
    cpu = two.run(steps, RunOptions(device="cpu"), to="cpu")
    for turn in range(5):
        cuda = two.run(steps, RunOptions(device="cuda", threads=4), to=f"cuda{turn}")
        torch.testing.assert_close(cuda["big"], cpu["big"], rtol=1e-6, atol=0)


def test_staging_is_pinned_and_other_buffers_are_on_the_device():
    arena = Arena(torch.device("cuda"))
    assert arena.staging(1000).raw.is_pinned()
    assert arena.take(1000, torch.float32).device.type == "cuda"


def test_errors_are_those_of_the_cpu(shop):
    x = torch.ones(2 * BLOCK)
    x[BLOCK + 3] = torch.nan
    shop.save("a", {"w": x})
    cuda = RunOptions(device="cuda")
    with pytest.raises(CheckpointError, match=f"w holds 1 NaN or Inf, first at element {BLOCK + 3}"):
        shop.run({"m": {"op": "toy.scale", "model": "a"}}, cuda)
    shop.save("a", {"w": torch.full((10,), 1e6)})
    with pytest.raises(OpError, match="w: 1e\\+06 at element 0 is too large for float16"):
        shop.run({"m": {"op": "toy.scale", "model": "a"}}, cuda, dtype="float16")
    with pytest.raises(OpError, match="returned a tensor on meta, not cuda:0"):
        shop.run({"m": {"op": "toy.bad", "model": "a", "how": "device"}}, cuda)


def test_a_resumed_run_keeps_what_the_cpu_has_written(two):
    steps = {"m": {"op": "toy.scale", "model": "a", "factor": 2}}
    bad = steps | {"n": {"op": "toy.bad", "model": "m", "how": "raise", "where": "big"}}
    with pytest.raises(OpError):
        two.run(bad, RunOptions(device="cpu", threads=1))
    two.run(steps, RunOptions(device="cuda"))
    assert two.report.resumed > 0


def test_a_small_budget_makes_smaller_chunks(two):
    two.run({"m": {"op": "toy.scale", "model": "a"}}, RunOptions(device="cuda", memory=128 * 2**20))
    assert two.report.device == "cuda"
