from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from surgery.execute.crew import Crew, one_thread_a_worker
from surgery.execute.device import Place
from surgery.execute.evaluate import Evaluator


def crew(workers: int, budget: int = 0) -> Crew:
    return Crew([Evaluator(Place(torch.device("cpu")), "error") for _ in range(workers)], budget)


def job(held: int, *phases: list):
    """Return a job as the crew takes it: a function that begins its phases, and the bytes that it holds."""

    def begin() -> Iterator[list]:
        yield from phases

    return begin, held


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_unit_of_every_phase_runs_once_and_phases_in_order(workers):
    done: list[tuple[int, int]] = []
    lock = threading.Lock()

    def unit(index: int, phase: int):
        def run(work: Evaluator) -> None:
            time.sleep(0.001)
            with lock:
                done.append((index, phase))

        return run

    jobs = [job(0, *[[unit(i, phase)] * 3 for phase in range(4)]) for i in range(10)]
    crew(workers, 100).run(jobs)
    assert sorted(done) == sorted((i, phase) for i in range(10) for phase in range(4) for _ in range(3))
    for index in range(10):
        phases = [phase for i, phase in done if i == index]
        assert phases == sorted(phases)


def test_a_phase_without_units_is_passed_over():
    done = []
    crew(2).run([job(0, [], [lambda work: done.append(1)], []), job(0), job(0, [])])
    assert done == [1]


def test_no_jobs_are_done_at_once():
    crew(3).run([])


@pytest.mark.parametrize(("held", "budget", "most"), [(10, 25, 2), (10, 100, 4), (200, 100, 1), (0, 0, 4)])
def test_jobs_are_admitted_by_the_bytes_that_they_hold(held, budget, most):
    active, seen = 0, []
    lock = threading.Lock()
    together = threading.Barrier(most)

    def first(work: Evaluator) -> None:
        nonlocal active
        with lock:
            active += 1
            seen.append(active)
        together.wait(10)  # as many as may be are there at once

    def last(work: Evaluator) -> None:
        nonlocal active
        with lock:
            active -= 1

    crew(4, budget).run([job(held, [first], [last]) for _ in range(2 * most)])
    assert max(seen) == most


def test_a_job_too_large_for_the_budget_runs_alone():
    alone = []
    running = set()

    def unit(name: str):
        def run(work: Evaluator) -> None:
            running.add(name)
            time.sleep(0.02)
            if "big" in running:
                alone.append(set(running))
            running.discard(name)

        return run

    crew(3, 10).run([job(5, [unit("a")]), job(99, [unit("big")]), job(5, [unit("b")])])
    assert alone == [{"big"}]


def test_the_first_error_stops_everybody_and_is_raised():
    done = []

    def fail(work: Evaluator) -> None:
        raise ZeroDivisionError("first")

    def note(work: Evaluator) -> None:
        time.sleep(0.01)
        done.append(1)

    with pytest.raises(ZeroDivisionError, match="first"):
        crew(2).run([job(0, [note]), job(0, [fail])] + [job(0, [note]) for _ in range(100)])
    assert len(done) < 10


def test_an_error_between_phases_stops_everybody():
    def begin() -> Iterator[list]:
        yield [lambda work: None]
        raise ValueError("between phases")

    with pytest.raises(ValueError, match="between phases"):
        crew(2).run([(begin, 0), job(0, [lambda work: None])])


def test_units_in_flight_end_before_an_error_is_raised():
    ended = threading.Event()
    begun = threading.Barrier(2)

    def slow(work: Evaluator) -> None:
        begun.wait(10)
        time.sleep(0.05)
        ended.set()

    def fail(work: Evaluator) -> None:
        begun.wait(10)
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        crew(2).run([job(0, [slow]), job(0, [fail])])
    assert ended.is_set()


def test_a_crew_may_run_again():
    done = []
    same = crew(2)
    for _ in range(3):
        same.run([job(1, [lambda work: done.append(1)]) for _ in range(4)])
    assert len(done) == 12


def test_workers_use_one_thread_of_torch_each():
    seen = []
    crew(2).run([job(0, [lambda work: seen.append(torch.get_num_threads())]) for _ in range(4)])
    assert set(seen) == {1}


def test_the_number_of_torch_threads_comes_back_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with suppress(ValueError), one_thread_a_worker():
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_every_worker_has_scratch_memory_of_its_own():
    seen = []
    together = threading.Barrier(3)

    def unit(work: Evaluator) -> None:
        together.wait(10)
        seen.append(work.arena)

    crew(3).run([job(0, [unit]) for _ in range(3)])
    assert len(set(map(id, seen))) == 3
