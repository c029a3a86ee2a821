from __future__ import annotations

import pytest

from surgery.ops import BLOCK
from surgery.schedule.jobs import ALIGNED, CHUNK, GATHER_SPAN, STATE_BYTES, Job, make_jobs

ADD = "  m: {op: toy.add, models: [a, b]}"


def jobs_of(plan, chunk: int = BLOCK) -> list[Job]:
    return make_jobs(plan.outputs, chunk)


def names(jobs: list[Job]) -> list[list[str]]:
    return [[f"{target.output}.{target.tensor.spec.name}" for target in job.targets] for job in jobs]


def test_every_tensor_of_one_output_is_a_job_of_its_own(plan):
    jobs = jobs_of(plan(ADD, {"x": (2, 3), "y": (4,), "z": ()}))
    assert names(jobs) == [["0.x"], ["0.y"], ["0.z"]]


def test_a_group_is_one_job(plan):
    shapes = {"layers.0.q": (2, 3), "norm": (3,), "layers.1.q": (2, 3), "layers.0.k": (5,)}
    jobs = jobs_of(plan("  m: {op: toy.layer, model: a}", shapes))
    assert names(jobs) == [["0.layers.0.q", "0.layers.0.k"], ["0.norm"], ["0.layers.1.q"]]


TWO = "  x: {op: toy.add, models: [a, b]}\n  y: {op: toy.near, model: a, base: b}\n  z: {op: toy.rows, model: a}"
OUTPUTS = "{x: {model: x}, z: {model: z}, b: {model: b}}"


def test_outputs_that_read_one_tensor_are_one_job(plan):
    jobs = jobs_of(plan(TWO, {"w": (2, 3), "v": (4,)}, outputs=OUTPUTS))
    assert names(jobs) == [["0.w", "1.w", "2.w"], ["0.v", "1.v", "2.v"]]


def test_outputs_of_other_sizes_are_jobs_of_their_own(plan):
    steps = "  c: {op: toy.cut, model: a, rows: [0, 1]}\n  d: {op: toy.cut, model: a, rows: [1, 2]}"
    outputs = "{c: {model: c}, d: {model: d}, a: {model: a}}"
    assert names(jobs_of(plan(steps, {"w": (2, 3)}, outputs=outputs))) == [["0.w", "1.w"], ["2.w"]]


def test_what_two_outputs_share_is_one_root(plan):
    (job,) = jobs_of(plan(TWO, {"w": (2, 3)}, outputs="{x: {model: x}, again: {model: x}}"))
    assert len(job.targets) == 2
    assert len(job.roots) == 1


@pytest.mark.parametrize(("wanted", "chunk"), [(1, 64), (64, 64), (65, 128), (1000, 1024), (CHUNK, CHUNK)])
def test_chunks_are_whole_vectors(plan, wanted, chunk):
    (job,) = jobs_of(plan(ADD, {"w": (1000, 1000)}), wanted)
    assert job.chunk == chunk


def test_a_chunk_holds_at_least_a_row_where_rows_are_needed(plan):
    rows = "  m: {op: toy.rows, model: a}"
    assert [job.chunk for job in jobs_of(plan(rows, {"w": (3, 300), "v": (9,)}), 64)] == [320, 64]
    assert [job.chunk for job in jobs_of(plan(ADD, {"w": (3, 300)}), 64)] == [64]


def test_blocks_and_spans_are_whole_vectors():
    assert CHUNK % ALIGNED == GATHER_SPAN % ALIGNED == 0


def test_bytes_written_are_those_of_all_targets(plan):
    outputs = "{x: {model: x, dtype: bfloat16}, z: {model: z}}"
    (job,) = jobs_of(plan(TWO, {"w": (20, 3)}, outputs=outputs))
    assert job.writes == 60 * 2 + 60 * 4


def test_buffers_are_no_larger_than_the_tensor(plan):
    small, large, larger = jobs_of(plan(ADD, {"s": (10,), "l": (1000, 1000), "x": (2000, 1000)}))
    assert small.working * 100 < large.working
    assert large.working == larger.working


def test_float64_takes_twice_the_buffers(plan):
    shapes = {"w": (100, 100)}
    (single,), (double,) = jobs_of(plan(ADD, shapes)), jobs_of(plan(ADD, shapes, stored="F64"))
    assert double.working == 2 * single.working


def test_every_model_and_every_scratch_buffer_takes_a_chunk(plan):
    one, two = "  m: {op: toy.add, models: [a]}", ADD
    (less,), (more,) = jobs_of(plan(one, {"w": (1000,)})), jobs_of(plan(two, {"w": (1000,)}))
    assert more.working - less.working == 1000 * 4
    (plain,) = jobs_of(plan("  m: {op: toy.near, model: a, base: b}", {"w": (1000,)}))
    assert more.working - plain.working == 3 * 1000 * 4


def test_whole_rows_at_both_ends_of_a_chunk_are_counted(plan):
    (job,) = jobs_of(plan("  m: {op: toy.rows, model: a}", {"w": (100, 5000)}), 64)
    (plain,) = jobs_of(plan("  m: {op: toy.once, models: [a]}", {"w": (100, 5000)}), 5056)
    assert job.chunk == plain.chunk == 5056
    assert job.working * 5056 == plain.working * (5056 + 2 * 5000)


def test_element_ops_hold_nothing(plan):
    assert [job.held for job in jobs_of(plan(ADD, {"w": (1000, 1000)}))] == [0]


def test_a_whole_tensor_holds_inputs_result_and_temporaries(plan):
    (job,) = jobs_of(plan("  m: {op: toy.whole, models: [a, b]}", {"w": (10, 10)}))
    inputs = 2 * 100 * 4
    assert job.held == inputs + 3 * inputs + 400
    (thrifty,) = jobs_of(plan("  m: {op: toy.thrifty, models: [a, b]}", {"w": (10, 10)}))
    assert thrifty.held == inputs + 1000 + 400
    (wide,) = jobs_of(plan("  m: {op: toy.whole, models: [a, b]}", {"w": (10, 10)}, stored="F64"))
    assert wide.held == 2 * job.held


def test_a_group_holds_all_members_and_their_results(plan):
    (job,) = jobs_of(plan("  m: {op: toy.layer, model: a}", {"layers.0.q": (10, 10), "layers.0.k": (50,)}))
    # inputs, three times that for temporaries, results; and the results again while they are written
    assert job.held == 5 * 4 * 150 + 4 * 150


def test_what_a_gather_finds_is_bounded_by_the_tensor_and_by_what_a_threshold_takes(plan):
    small, large = jobs_of(plan("  m: {op: toy.once, models: [a, b]}", {"s": (10,), "l": (10_000, 1000)}))
    assert small.held == 3 * 8 * 10
    assert large.held == 3 * STATE_BYTES


def test_what_a_whole_model_gather_finds_is_shared_by_all_jobs(plan):
    jobs = jobs_of(plan("  m: {op: toy.model, models: [a]}", {"s": (10,), "t": (20,)}))
    assert [(job.held, job.gathered) for job in jobs] == [(0, 2 * 8 * 30), (0, 2 * 8 * 30)]


READS = {
    "": 1,
    "  m: {op: toy.add, models: [a, b]}": 2,
    "  m: {op: toy.once, models: [a]}": 2,
    "  m: {op: toy.twice, models: [a, b]}": 6,
    "  m: {op: toy.whole, models: [a, b]}": 2,
    "  m: {op: toy.layer, model: a}": 1,
    "  m: {op: toy.model, models: [a]}": 2,
    "  x: {op: toy.once, models: [a]}\n  m: {op: toy.once, models: [x]}": 3,
    "  x: {op: toy.once, models: [a]}\n  m: {op: toy.whole, models: [x]}": 2,
    "  x: {op: toy.whole, models: [a]}\n  m: {op: toy.twice, models: [x]}": 1,
    "  x: {op: toy.add, models: [a, b]}\n  m: {op: toy.near, model: x, base: a}": 2,
    "  x: {op: toy.once, models: [a]}\n  y: {op: toy.twice, models: [a]}\n  m: {op: toy.add, models: [x, y]}": 4,
    "  x: {op: toy.cut, model: a, rows: [0, 5]}\n  m: {op: toy.once, models: [x]}": 1,
}


@pytest.mark.parametrize("steps", READS)
def test_a_tensor_is_read_in_every_pass_that_looks_at_it(plan, steps):
    (job,) = jobs_of(plan(steps, {"layers.0.w": (10, 10)}))
    assert job.reads == READS[steps] * 400


def test_outputs_of_one_job_share_what_they_read(plan):
    (job,) = jobs_of(plan(TWO, {"w": (10, 10)}, outputs="{x: {model: x}, y: {model: y}, a: {model: a}}"))
    assert job.reads == 800
