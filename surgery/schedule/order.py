"""The schedule of a plan: shard layouts, jobs in order, and what they take of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgery.checkpoint.layout import ShardLayout, lay_out
from surgery.errors import ResourceError
from surgery.ops import BLOCK
from surgery.plan.model import Plan
from surgery.plan.nodes import Apply
from surgery.schedule.jobs import Job, make_jobs
from surgery.schedule.options import RunOptions
from surgery.tensors import human_bytes

# Of the budget, what the plan, Python's heap and torch's kernels take besides the jobs' own buffers.
RESERVE = 48 * 2**20
PER_TENSOR = 3_000  # bytes of plan, layout and journal for one output tensor, measured on 90,000


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to run, in order. `peak` is the memory that the run takes at worst, above interpreter and torch."""

    plan: Plan
    layouts: tuple[ShardLayout, ...]
    jobs: tuple[Job, ...]
    workers: int
    budget: int
    peak: int

    @property
    def reads(self) -> int:
        """Return the bytes read from source files."""
        return sum(job.reads for job in self.jobs)

    @property
    def writes(self) -> int:
        """Return the bytes of tensors written."""
        return sum(job.writes for job in self.jobs)


def order(plan: Plan, options: RunOptions) -> Schedule:
    """Return the schedule of a plan within the memory budget. Raises ResourceError if a job can never fit."""
    budget = options.budget()
    jobs = make_jobs(plan.outputs, options.chunk or BLOCK)
    layouts = tuple(lay_out([t.spec for t in output.tensors], output.shard_size) for output in plan.outputs)
    fixed = RESERVE + PER_TENSOR * sum(len(job.targets) for job in jobs) + _legacy(plan)
    workers = _workers(jobs, budget - fixed, options.workers())
    peak = fixed + _worst(jobs, workers)
    _check(jobs, fixed, budget)
    return Schedule(plan, layouts, tuple(jobs), workers, budget, min(peak, max(budget, fixed)))


def _legacy(plan: Plan) -> int:
    """Return what old pickled files take, which can only be loaded whole."""
    return sum(checkpoint.whole_file_bytes() for checkpoint in set(plan.checkpoints.values()))


def _workers(jobs: Sequence[Job], room: int, wanted: int) -> int:
    """Return how many workers the budget allows for the widest chunk."""
    widest = max((job.working for job in jobs), default=1)
    return max(1, min(wanted, room // max(widest, 1)))


def _worst(jobs: Sequence[Job], workers: int) -> int:
    """Return the bytes of the jobs in flight at worst: as many of the largest as there are workers."""
    held = sorted((job.held for job in jobs), reverse=True)[: workers + 1]
    return workers * max((job.working for job in jobs), default=0) + sum(held)


def _check(jobs: Sequence[Job], fixed: int, budget: int) -> None:
    worst = max(jobs, key=lambda job: job.held + job.working, default=None)
    if worst is None:
        return
    needed = fixed + worst.held + worst.working
    if needed > budget:
        target = worst.targets[0].tensor
        step = target.node.step if isinstance(target.node, Apply) else ""
        where = f"step {step} needs" if step else "the plan needs"
        raise ResourceError(
            f"schedule: {where} {human_bytes(needed)} for {target.spec.name}, budget is {human_bytes(budget)}; "
            "raise --memory"
        )
