"""The workers of a run: they take units of jobs in order, as many jobs at a time as the memory allows.

A unit runs without the lock. The worker that finishes the last unit of a phase moves the job to its next phase,
so that no thread ever waits for another one's job. The first error stops everybody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from surgery.execute.evaluate import Evaluator
from surgery.execute.needs import Phases, Unit


@dataclass(slots=True, eq=False)
class Active:
    """A job that was admitted: its phases, and how many units of the current one are not done."""

    phases: Phases
    held: int
    pending: int = 0


@contextmanager
def one_thread_a_worker() -> Iterator[None]:
    """Let torch use one thread a worker: work is spread over tensors, and sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Crew:
    """Runs jobs on some workers within a budget of held bytes."""

    def __init__(self, evaluators: list[Evaluator], budget: int) -> None:
        self._evaluators = evaluators
        self._budget = budget
        self._changed = threading.Condition()
        self._ready: deque[tuple[Active, Unit]] = deque()
        self._jobs: Iterator[tuple[Callable[[], Phases], int]] = iter(())
        self._next: tuple[Callable[[], Phases], int] | None = None
        self._held = 0
        self._active = 0
        self._error: BaseException | None = None
        self._running = 0
        self._idle = threading.Event()

    def run(self, jobs: Iterable[tuple[Callable[[], Phases], int]], besides: int = 0) -> None:
        """Run jobs, each given as a function that begins its phases and the bytes that it holds, until all are done.

        `besides` are bytes that are held meanwhile, whichever jobs run.
        Raises what the first failing unit raised; KeyboardInterrupt stops after the units in flight.
        """
        self._jobs = iter(jobs)
        self._next = next(self._jobs, None)
        self._held = besides
        threads = [
            threading.Thread(target=self._work, args=(evaluator,), name=f"worker-{i}", daemon=True)
            for i, evaluator in enumerate(self._evaluators)
        ]
        self._running = len(threads)
        self._idle.clear()
        for thread in threads:
            thread.start()
        try:
            # an event and not `join`: in Python 3.11 a join that a signal interrupts takes the thread for finished
            self._idle.wait()
        except BaseException as error:
            self._fail(error)
            self._idle.wait()
        if self._error is not None:
            raise self._error

    def _work(self, evaluator: Evaluator) -> None:
        try:
            torch.set_num_threads(1)  # the number is each thread's own
            with torch.no_grad(), evaluator.place.working():
                while (task := self._take()) is not None:
                    active, unit = task
                    if unit is not None:
                        unit(evaluator)
                    self._finished(active, unit)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._running -= 1
                if self._running == 0:
                    self._idle.set()

    def _take(self) -> tuple[Active, Unit | None] | None:
        """Return the next unit, or a job to begin (unit None); None when there is nothing left to do."""
        with self._changed:
            while self._error is None:
                if self._ready:
                    return self._ready.popleft()
                if self._next is not None and self._admits(self._next[1]):
                    begin, held = self._next
                    self._next = next(self._jobs, None)
                    self._held += held
                    self._active += 1
                    return Active(begin(), held), None
                if self._active == 0 and self._next is None:
                    return None
                self._changed.wait()
        return None

    def _admits(self, held: int) -> bool:
        return self._active == 0 or self._held + held <= self._budget

    def _finished(self, active: Active, unit: Unit | None) -> None:
        """Note a unit as done; advance its job when the phase is over."""
        if unit is not None:
            with self._changed:
                active.pending -= 1
                if active.pending:
                    return
        units = next(active.phases, None)
        while units == []:
            units = next(active.phases, None)
        with self._changed:
            if units is None:
                self._held -= active.held
                self._active -= 1
            else:
                active.pending = len(units)
                # ahead of other jobs' units: a job that is begun should end and free what it holds
                self._ready.extendleft((active, unit) for unit in reversed(units))
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
