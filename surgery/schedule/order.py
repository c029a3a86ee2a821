"""The schedule of a plan: shard layouts, jobs in order, and what they take of memory."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.checkpoint.layout import ShardLayout, lay_out
from surgery.errors import ResourceError
from surgery.plan.calibration import calibrations_of
from surgery.plan.model import Output, Plan
from surgery.plan.nodes import Apply, Emitted, Member, Node, walk
from surgery.schedule.calibrations import CalibrationCost, cost_of
from surgery.schedule.jobs import CHUNK, LARGE_CHUNK, Job, held_bytes, make_jobs
from surgery.schedule.options import RunOptions
from surgery.tensors import human_bytes

# Of the budget, what the plan, Python's heap and torch's kernels take besides the jobs' own buffers.
RESERVE = 48 * 2**20
PER_TENSOR = 3_000  # bytes of plan, layout and journal for one output tensor, measured on 90,000


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to run, in order.

    room          bytes that the jobs in flight may hold together
    peak          bytes of memory that the run takes at worst, above interpreter and torch
    calibrations  what is run on text before the jobs, in order
    """

    plan: Plan
    layouts: tuple[ShardLayout, ...]
    jobs: tuple[Job, ...]
    workers: int
    budget: int
    room: int
    peak: int
    calibrations: tuple[CalibrationCost, ...] = ()

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
    layouts = tuple(_layout(output) for output in plan.outputs)
    fixed = RESERVE + PER_TENSOR * sum(len(output.tensors) for output in plan.outputs) + _legacy(plan)
    nodes = [tensor.node for output in plan.outputs for tensor in output.tensors]
    texts = tuple(cost_of(calibration) for calibration in calibrations_of(nodes))
    if options.chunk is None:
        large = _fit(make_jobs(plan.outputs, LARGE_CHUNK), texts, fixed, budget // 2, options.workers())
        if large.workers == options.workers() and large.needed <= budget // 2:
            jobs = _by_shards(large.jobs, plan, layouts)
            return Schedule(plan, layouts, jobs, large.workers, budget, *large.within(budget), texts)
    fit = _fit(make_jobs(plan.outputs, options.chunk or CHUNK), texts, fixed, budget, options.workers())
    _check(fit, budget)
    jobs = _by_shards(fit.jobs, plan, layouts)
    return Schedule(plan, layouts, jobs, fit.workers, budget, *fit.within(budget), texts)


def _by_shards(jobs: tuple[Job, ...], plan: Plan, layouts: tuple[ShardLayout, ...]) -> tuple[Job, ...]:
    """Order the jobs of outputs that are uploaded shard by shard: small ones first and last, the largest between.

    So the upload begins early, and little is left of it when everything is computed. Other jobs come last.
    """
    ranks: dict[tuple[int, str], int] = {}
    for index, (output, layout) in enumerate(zip(plan.outputs, layouts, strict=True)):
        if output.target is None:
            continue
        by_size = sorted(layout.shards, key=lambda shard: shard.size)
        for rank, shard in enumerate(by_size[::2] + by_size[1::2][::-1]):
            ranks |= {(index, spec.name): rank for spec in shard.tensors}

    def rank_of(job: Job) -> int:
        return min(ranks.get((target.output, target.tensor.spec.name), len(ranks)) for target in job.targets)

    return tuple(sorted(jobs, key=rank_of)) if ranks else jobs


def _layout(output: Output) -> ShardLayout:
    return lay_out([tensor.spec for tensor in output.tensors], output.shard_size, stem=output.stem)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Jobs in a budget: `needed` for one worker and the largest job, `buffers` of all workers, the largest helds."""

    jobs: tuple[Job, ...]
    texts: tuple[CalibrationCost, ...]
    workers: int
    fixed: int
    needed: int
    buffers: int
    held: int

    def within(self, budget: int) -> tuple[int, int]:
        """Return the room for what jobs hold, and the memory taken at worst."""
        room = budget - self.fixed - self.buffers
        return room, self.fixed + self.buffers + min(self.held, room)


def _fit(jobs: list[Job], texts: tuple[CalibrationCost, ...], fixed: int, budget: int, wanted: int) -> _Fit:
    """Return how many workers fit: the largest job must fit beside all workers' buffers, and so must a calibration."""
    fixed += max((job.gathered for job in jobs), default=0)
    widest = max([*(job.working for job in jobs), *(text.working for text in texts)], default=0)
    longest = max([*(job.held for job in jobs), *(text.least for text in texts)], default=0)
    workers = max(1, min(wanted, (budget - fixed - longest) // max(widest, 1)))
    held = sum(sorted((job.held for job in jobs), reverse=True)[:workers])
    held = max([held, *(text.at_once(min(workers, text.samples)) for text in texts)])
    return _Fit(tuple(jobs), texts, workers, fixed, fixed + widest + longest, workers * widest, held)


def _legacy(plan: Plan) -> int:
    """Return what readers hold: old pickled files, which can only be loaded whole, and the factors of adapters."""
    read = {part for checkpoint in plan.checkpoints.values() for part in checkpoint.parts()}
    return sum(checkpoint.whole_file_bytes() for checkpoint in read)


def _check(fit: _Fit, budget: int) -> None:
    jobs, needed = fit.jobs, fit.needed
    if needed <= budget:
        return
    text = max(fit.texts, key=lambda text: text.least, default=None)
    if text is not None and text.least > max(job.held for job in jobs):
        raise ResourceError(
            f"schedule: step {text.step} needs {human_bytes(needed)} to run a block of the model on "
            f"{text.length} tokens, budget is {human_bytes(budget)}; raise --memory"
        )
    worst = max(jobs, key=lambda job: job.held + job.working)
    target = worst.targets[0].tensor
    step = _heaviest(worst)
    where = f"step {step} needs" if step else "the plan needs"
    raise ResourceError(
        f"schedule: {where} {human_bytes(needed)} for {target.spec.name}, budget is {human_bytes(budget)}; "
        "raise --memory"
    )


def _heaviest(job: Job) -> str:
    """Return the step that holds most of what a job holds; empty if no step computes anything."""
    held: dict[str, int] = {}
    for node in walk(*job.roots):
        held[_step(node)] = held.get(_step(node), 0) + held_bytes([node])
    return max(held, key=lambda step: (held[step], step != ""))


def _step(node: Node) -> str:
    match node:
        case Apply():
            return node.step
        case Member():
            return node.group.step
        case Emitted():
            return node.call.step
        case _:
            return ""
