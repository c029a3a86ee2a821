"""A run from start to end: what is read, what is reported, what hooks and listeners are told."""

from __future__ import annotations

import json
import threading

import pytest
import torch
import xxhash

import surgery
from surgery import RunOptions
from surgery.execute.device import World
from surgery.execute.report import JobDone, Meter, Progress, peak_rss
from surgery.execute.run import share
from surgery.ops import BLOCK
from surgery.schedule.jobs import Job
from surgery.schedule.order import order

CPU = RunOptions(device="cpu", threads=2)


def reads(shop, steps, **top) -> int:
    """Run, hold what was read against the schedule's own figure, and return it."""
    resolved = shop.recipe(steps, **top).resolve(force=True)
    report = resolved.run(RunOptions(device="cpu", threads=2, force=True))
    schedule = order(resolved.plan, CPU)
    assert report.bytes_read == schedule.reads
    assert report.bytes_written == schedule.writes == sum(output.nbytes for output in report.outputs)
    return report.bytes_read


NUMEL = 2 * BLOCK + 64
SIZE = 4 * NUMEL


@pytest.fixture
def two(shop):
    for name in "ab":
        shop.save(name, {"w": torch.rand(NUMEL // 64, 64) + 1, "ids": torch.arange(10)})
    return shop


def test_inputs_of_a_chain_are_read_once(two):
    steps = {
        "x": {"op": "toy.linear", "models": ["a", "b"]},
        "y": {"op": "toy.delta", "model": "x", "base": "a"},
        "z": {"op": "toy.scale", "model": "y", "factor": 2},
    }
    assert reads(two, steps) == 2 * SIZE + 2 * 80


def test_a_reduction_reads_once_more_for_each_gather(two):
    norm = {"x": {"op": "toy.norm", "model": "a"}}
    assert reads(two, norm) == 2 * SIZE + 80
    assert reads(two, {"x": {"op": "toy.standard", "models": ["a"]}}) == 3 * SIZE + 80
    assert reads(two, norm | {"y": {"op": "toy.norm", "model": "x"}}) == 3 * SIZE + 80


def test_two_reductions_of_one_tensor_read_it_for_each(two):
    steps = {
        "x": {"op": "toy.norm", "model": "a"},
        "y": {"op": "toy.standard", "models": ["a"]},
        "z": {"op": "toy.linear", "models": ["x", "y"]},
    }
    assert reads(two, steps) == (1 + 2 + 1) * SIZE + 80


def test_whole_tensors_are_read_once(two):
    two.save("a", {"w": torch.rand(50, 64), "layers.0.v": torch.rand(9)})
    steps = {
        "x": {"op": "toy.gram", "model": "a", "where": "w"},
        "y": {"op": "toy.share", "model": "x"},
        "z": {"op": "toy.norm", "model": "y"},
    }
    assert reads(two, steps) == 4 * (50 * 64 + 9)


def test_a_model_op_reads_everything_once_for_each_gather(two):
    two.save("a", {"w": torch.rand(50, 64), "v": torch.rand(9)})
    assert reads(two, {"m": {"op": "toy.largest", "models": ["a"]}}) == 3 * 4 * (50 * 64 + 9)


def test_rows_read_only_themselves(two):
    steps = {"c": {"op": "toy.cut", "model": "a", "rows": [0, 5]}}
    two.save("a", {"w": torch.rand(500, 64)})
    assert reads(two, steps) == 5 * 64 * 4
    assert reads(two, steps | {"n": {"op": "toy.norm", "model": "c"}}) == 2 * 5 * 64 * 4


def outputs(*names: str) -> dict:
    return {name: {"model": name, "to": f"./out-{name}"} for name in names}


def test_several_outputs_read_their_inputs_once(two):
    steps = {
        "x": {"op": "toy.linear", "models": ["a", "b"]},
        "y": {"op": "toy.scale", "model": "x", "factor": 2},
        "z": {"op": "toy.delta", "model": "a", "base": "b"},
    }
    assert reads(two, steps, outputs=outputs("x", "y", "z")) == 2 * SIZE + 2 * 80


def test_outputs_that_copy_the_same_bytes_read_them_once(two):
    steps = {
        "x": {"op": "toy.scale", "model": "a", "where": "w"},
        "y": {"op": "toy.scale", "model": "a", "where": "w"},
    }
    both = {"x": {"model": "a", "to": "./out-x"}, "y": {"model": "a", "to": "./out-y"}}
    assert reads(two, {}, outputs=both) == SIZE + 80
    assert reads(two, steps, outputs=outputs("x", "y")) == SIZE + 80


def test_an_output_that_copies_what_another_computes_reads_nothing(two):
    steps = {"x": {"op": "toy.scale", "model": "a", "factor": 2, "where": "w"}}
    both = {"x": {"model": "x", "to": "./out-x"}, "a": {"model": "a", "to": "./out-a"}}
    assert reads(two, steps, outputs=both) == SIZE + 80
    a = two.read("a")
    assert torch.equal(two.read("out-a")["w"], a["w"])
    assert torch.equal(two.read("out-x")["w"], a["w"] * 2)


def test_the_report_says_what_happened(two):
    two.run({"m": {"op": "toy.scale", "model": "a"}})
    report = two.report
    (written,) = report.outputs
    assert (written.name, written.folder, written.tensors) == ("output", two.folder / "out", 2)
    assert (written.nbytes, written.shards) == (SIZE + 80, 1)
    assert (report.device, report.workers, report.resumed) == ("cpu", 2, 0)
    assert 0 < report.seconds < 60
    assert 10 * 2**20 < report.peak_rss <= peak_rss()


def test_an_output_is_described_beside_its_weights(two):
    (two.folder / "a" / "config.json").write_text('{"torch_dtype": "float32", "model_type": "x"}')
    (two.folder / "a" / "tokenizer.json").write_text("{}")
    two.run({"m": {"op": "toy.scale", "model": "a"}}, dtype="bfloat16", seed=5)
    folder = two.folder / "out"
    names = ["README.md", "config.json", "model.safetensors", "report.json", "surgery.json", "tokenizer.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    config = json.loads((folder / "config.json").read_text())
    assert config == {"torch_dtype": "bfloat16", "model_type": "x"}
    manifest = json.loads((folder / "surgery.json").read_text())
    assert manifest["seed"] == 5
    size = (two.folder / "a" / "model.safetensors").stat().st_size
    model = manifest["models"]["a"]
    assert model["source"] == "./a"
    assert model["files"]["model.safetensors"]["bytes"] == size
    assert manifest["steps"] == {"m": {"op": "toy.scale", "version": 1}}
    assert manifest["files"]["tokenizer.json"] == xxhash.xxh3_128_hexdigest(b"{}")
    piece = xxhash.xxh3_128_digest(two.read()["ids"].numpy().tobytes())
    assert manifest["tensors"]["ids"] == {
        "file": "model.safetensors",
        "xxh3": xxhash.xxh3_128_hexdigest(piece),
    }
    assert str(two.folder) not in (folder / "surgery.json").read_text()


def test_shards_are_as_large_as_was_asked(shop):
    a = shop.save("a", {f"w{i}": torch.randn(1000) for i in range(6)})
    steps = {"m": {"op": "toy.scale", "model": "a", "factor": 2}}
    shop.recipe(steps, output={"model": "m", "to": "./out", "shard_size": 8000}).run(CPU)
    assert sorted(shop.data()) == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert all(torch.equal(shop.read()[name], a[name] * 2) for name in a)
    index = json.loads((shop.folder / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 24_000


HOOKS = """
from surgery import hookimpl
heard = []
@hookimpl
def surgery_job_done(job): heard.append(job)
@hookimpl
def surgery_run_finished(report): heard.append(report)
"""


def test_hooks_are_told_of_tensors_and_of_the_end(two, toys):
    plugin = two.folder / "listening.py"
    plugin.write_text(HOOKS)
    recipe = two.write({"m": {"op": "toy.scale", "model": "a", "factor": 2}})
    loaded = surgery.load(recipe, plugins=[toys, plugin])
    report = loaded.run(CPU)
    (module,) = (m for m in loaded.host._registry.manager.get_plugins() if hasattr(m, "heard"))
    *jobs, last = module.heard
    assert last is report
    assert {job.tensor: job.nbytes for job in jobs} == {"w": SIZE, "ids": 80}
    manifest = json.loads((two.folder / "out" / "surgery.json").read_text())
    assert all(isinstance(job, JobDone) for job in jobs)
    assert {job.tensor: job.xxh3 for job in jobs} == {n: t["xxh3"] for n, t in manifest["tensors"].items()}


def test_a_listener_is_told_how_far_the_run_is(two):
    heard: list[Progress] = []
    recipe = two.recipe({"m": {"op": "toy.slow", "model": "a", "seconds": 0.15}})
    recipe.run(RunOptions(device="cpu", threads=1, chunk=BLOCK), listener=heard.append)
    done = [progress.done for progress in heard]
    assert done == sorted(done)
    assert {progress.total for progress in heard} == {SIZE + 80}
    assert 0 < done[-1] < SIZE + 80
    assert {progress.tensor for progress in heard} <= {"", "w", "ids"}
    assert heard[-1].seconds > 0.2


def test_a_run_may_be_started_in_any_thread(two):
    recipe = two.recipe({"m": {"op": "toy.scale", "model": "a", "factor": 2}})
    thread = threading.Thread(target=recipe.run, args=(CPU,))
    thread.start()
    thread.join()
    assert torch.equal(two.read()["w"], two.read("a")["w"] * 2)


def test_a_meter_adds_up_what_all_workers_write():
    meter = Meter(total=300)
    threads = [threading.Thread(target=lambda: [meter.add(1, "w") for _ in range(100)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.progress().done, meter.progress().tensor) == (300, "w")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_share_the_jobs_by_bytes_and_none_twice(size):
    jobs = [Job((), 1, 0, 0, 0, reads) for reads in (5, 100, 0, 0, 60, 3, 30, 2, 200, 0)]
    shares = [share(jobs, World(rank, size)) for rank in range(size)]
    assert [job for taken in shares for job in taken] == jobs
    if size == 2:
        assert [sum(job.reads for job in taken) for taken in shares] == [198, 202]
