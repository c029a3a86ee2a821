from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from surgery import ResourceError, RunOptions
from surgery.checkpoint.base_publisher import Destination
from surgery.plan.places import Target
from surgery.schedule.order import PER_TENSOR, RESERVE, Schedule, order

MIB = 2**20
ADD = "  m: {op: toy.add, models: [a, b]}"
WHOLE = "  x: {op: toy.whole, models: [a]}\n  m: {op: toy.add, models: [x]}"


def scheduled(plan, mib: int = 200, threads: int = 4, chunk: int = 1 << 17) -> Schedule:
    return order(plan, RunOptions(memory=mib * MIB, threads=threads, chunk=chunk))


def unopened(rest: str, private: bool):
    raise AssertionError("a schedule publishes nothing")


def test_a_schedule_adds_up_its_jobs(plan):
    made = scheduled(plan(ADD, {"w": (10, 10), "v": (10,)}, stored="BF16"))
    assert made.reads == 2 * 220
    assert made.writes == 220
    assert [layout.total_size for layout in made.layouts] == [220]


def test_shards_are_laid_out_before_anything_is_computed(plan):
    made = scheduled(plan(ADD, {"u": (10,), "v": (10,), "w": (10,)}, shard_size=90))
    assert [shard.file for shard in made.layouts[0].shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_what_is_uploaded_begins_and_ends_with_small_shards(plan):
    sizes = {"a": 20, "b": 80, "c": 10, "d": 90, "e": 30}
    here = plan(ADD, {name: (size,) for name, size in sizes.items()}, shard_size=100)
    assert [len(shard.tensors) for shard in scheduled(here).layouts[0].shards] == [1] * 5
    assert [job.targets[0].tensor.spec.name for job in scheduled(here).jobs] == ["a", "b", "c", "d", "e"]
    target = Target(Destination("hub", check=str, open=unopened, folder=str), "me/model")
    there = replace(here, outputs=(replace(here.outputs[0], target=target),))
    assert [job.targets[0].tensor.spec.name for job in scheduled(there).jobs] == ["c", "e", "d", "b", "a"]


def test_the_peak_is_what_is_fixed_and_every_workers_buffers(plan):
    made = scheduled(plan(ADD, {"w": (1000,), "v": (10,)}), threads=3)
    widest = max(job.working for job in made.jobs)
    assert made.workers == 3
    assert made.peak == RESERVE + 2 * PER_TENSOR + 3 * widest
    assert made.room == made.budget - made.peak


def test_the_peak_counts_as_many_of_the_largest_jobs_as_there_are_workers(plan):
    shapes = {f"w{i}": (1000, i + 1) for i in range(5)}
    made = scheduled(plan(WHOLE, shapes), threads=2)
    held = sorted(job.held for job in made.jobs)
    widest = max(job.working for job in made.jobs)
    assert made.peak == RESERVE + 5 * PER_TENSOR + 2 * widest + held[-1] + held[-2]


def test_the_peak_is_never_above_the_budget(plan):
    shapes = {f"w{i}": (1000, 1000) for i in range(8)}
    for mib in (75, 80, 100, 200):
        made = scheduled(plan(WHOLE, shapes), mib, threads=8)
        assert made.peak <= mib * MIB
        assert made.room >= max(job.held for job in made.jobs)


def test_fewer_workers_where_memory_is_short(plan):
    made = plan(ADD, {"w": (1000, 1000)})
    few, more, all_ = (scheduled(made, mib, threads=8).workers for mib in (64, 80, 200))
    assert 1 <= few < more < all_ == 8


def test_the_largest_job_fits_beside_all_workers_buffers(plan):
    made = plan(WHOLE, {"large": (2000, 1000), "small": (10,)})
    for mib in (96, 100, 150):
        schedule = scheduled(made, mib, threads=8)
        widest = max(job.working for job in schedule.jobs)
        fixed = RESERVE + 2 * PER_TENSOR
        assert fixed + schedule.workers * widest + max(j.held for j in schedule.jobs) <= mib * MIB


def test_a_job_that_can_never_fit_names_the_step_that_holds_most(plan):
    with pytest.raises(ResourceError) as error:
        scheduled(plan(WHOLE, {"small": (10,), "large": (10_000, 1000)}), 100)
    needed = RESERVE + 2 * PER_TENSOR + 5 * 40_000_000
    text = str(error.value)
    assert text.startswith("schedule: step x needs ")
    assert text.endswith(" MiB for large, budget is 100.0 MiB; raise --memory")
    assert needed / MIB < float(text.split()[4]) < needed / MIB + 10


def test_a_group_that_can_never_fit_is_named_too(plan):
    group = plan("  m: {op: toy.layer, model: a}", {f"layers.0.w{i}": (1000, 1000) for i in range(5)})
    with pytest.raises(ResourceError, match=r"schedule: step m needs .* for layers.0.w0, budget is 64.0 MiB"):
        scheduled(group, 64)


def test_long_rows_that_can_never_fit_are_the_steps(plan):
    rows = plan("  m: {op: toy.rows, model: a}", {"w": (4, 10_000_000)})
    with pytest.raises(ResourceError, match=r"schedule: step m needs .* for w, budget is 64\.0 MiB"):
        scheduled(rows, 64)


def test_files_that_can_only_be_loaded_whole_count_once_a_checkpoint(plan):
    less = scheduled(plan(ADD, {"w": (10,)}))
    more = scheduled(plan(ADD, {"w": (10,)}, whole=10 * MIB))
    assert more.peak - less.peak == 2 * 10 * MIB


def test_where_no_step_is_to_blame_the_plan_is(plan):
    old = plan("", {"w": (100,)}, whole=100 * MIB)
    with pytest.raises(ResourceError) as error:
        scheduled(old, 64)
    assert str(error.value) == (
        "schedule: the plan needs 148.0 MiB for w, budget is 64.0 MiB; raise --memory"
    )


def test_an_output_of_nothing_to_compute_has_a_schedule(plan):
    made = scheduled(plan("", {"w": (0, 3), "s": ()}))
    assert (made.reads, made.writes) == (4, 4)
    assert made.workers == 4


def test_the_chunk_is_the_users_if_one_is_given(plan):
    made = plan(ADD, {"w": (1000, 1000)})
    assert [job.chunk for job in scheduled(made, chunk=1000).jobs] == [1024]


def test_a_schedule_is_made_without_torch():
    code = "import sys, surgery.schedule.order; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
