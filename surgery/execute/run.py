"""A run from start to end: claim the outputs, gather for whole models, run the jobs, publish."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.journal import Entry
from surgery.checkpoint.layout import ShardLayout
from surgery.execute.crew import Crew, one_thread_a_worker
from surgery.execute.device import ACCELERATOR_CHUNK, World, device_memory, places, world
from surgery.execute.evaluate import Evaluator
from surgery.execute.jobs import JobRun
from surgery.execute.models import Calibrate, Site, gather_models, scopes_of
from surgery.execute.needs import prefetch
from surgery.execute.publish import publish, written
from surgery.execute.publishing import Publishing
from surgery.execute.report import JobDone, Leave, Listener, Meter, Progress, Report, peak_rss
from surgery.execute.samples import Samples
from surgery.execute.sink import Sink
from surgery.execute.syncer import Syncer
from surgery.host import Host
from surgery.plan.model import Output, Plan
from surgery.plan.nodes import Digests, sources
from surgery.schedule.jobs import GATHER_SPAN, Job
from surgery.schedule.options import RunOptions
from surgery.schedule.order import Schedule, order


def ordered(plan: Plan, options: RunOptions) -> Schedule:
    """Return the schedule by which `run` carries a plan out on this machine's devices.

    Raises ResourceError if a job can never fit or a device is asked for that is not there.
    """
    here = world(options.device)
    if here.device.type == "cuda" and options.chunk is None:
        options = _for_accelerator(options, here)
    return order(plan, options)


def run(
    plan: Plan,
    options: RunOptions,
    host: Host,
    listener: Listener | None = None,
    schedule: Schedule | None = None,
    calibrate: Calibrate | None = None,
    leave: Leave | None = None,
) -> Report:
    """Carry out a plan and return what happened. `schedule` is what `ordered` gave, if it was asked before; `calibrate`
    computes the statistics that ops need of activations; `leave` writes what else belongs into the outputs.

    Raises CheckpointError, OpError or ResourceError; then, and on Ctrl-C, what is finished stays beside the output
    in `<output>.partial` and the next run of the same plan continues from it.
    """
    started = time.monotonic()
    here = world(options.device)
    schedule = schedule or ordered(plan, options)
    sinks = _sinks(plan, schedule.layouts)
    publishing = Publishing(sinks if here.rank == 0 else ())
    with one_thread_a_worker(), _one_interrupt():
        try:
            publishing.begin()
            kept = _open(sinks, here, resume=options.resume)
            publishing.opened()
            work = _Run(schedule, sinks, here, host, publishing)
            work.go(listener, calibrate)
            _collect(sinks, here, work.entries)
            report = work.report(started, kept)
            if here.rank == 0:
                with work.telling(listener):
                    urls = publish(plan, report, sinks, host, publishing, force=options.force, leave=leave)
                outputs = (replace(o, url=url) for o, url in zip(report.outputs, urls, strict=True))
                report = replace(report, outputs=tuple(outputs))
            here.wait()
        finally:
            publishing.close()
            for sink in sinks:
                sink.close()
    report = replace(report, seconds=time.monotonic() - started)
    host.hook.surgery_run_finished(report=report)
    return report


def _for_accelerator(options: RunOptions, here: World) -> RunOptions:
    """Return the options with chunks that keep an accelerator busy and fit its memory and the budget."""
    free = min(device_memory(here) or 0, options.budget())
    chunk = ACCELERATOR_CHUNK
    while chunk > 2**17 and chunk * 4 * 64 > free:
        chunk //= 2
    return replace(options, chunk=chunk)


class _Run:
    """The moving parts of one process's share of a run."""

    def __init__(
        self, schedule: Schedule, sinks: list[Sink], here: World, host: Host, publishing: Publishing
    ) -> None:
        self.schedule, self.sinks, self.here, self.host = schedule, sinks, here, host
        self.publishing = publishing
        policy = schedule.plan.recipe.on_nonfinite
        self.evaluators = [Evaluator(place, policy) for place in places(here, schedule.workers)]
        self.entries: list[dict[str, Entry]] = [{} for _ in sinks]
        self.todo = [job for job in schedule.jobs if not self._is_done(job)]
        self.mine = share(self.todo, here)
        self.meter = Meter(total=sum(job.writes for job in self.mine))
        self.samples = Samples(self.meter.started)
        self._index = {id(sink): index for index, sink in enumerate(sinks)}
        self._said = ""
        self._readers = {
            part: None for checkpoint in schedule.plan.checkpoints.values() for part in checkpoint.parts()
        }

    def _is_done(self, job: Job) -> bool:
        return all(target.tensor.spec.name in self.sinks[target.output].done for target in job.targets)

    def go(self, listener: Listener | None, calibrate: Calibrate | None) -> None:
        """Gather for whole models, then run this process's jobs."""
        _expect(self.mine)
        stop, stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._tick, args=(listener, stop, stopped), daemon=True).start()
        try:
            crew = Crew(self.evaluators, self.schedule.room)
            found: dict[int, Any] = {}
            site = Site(self.evaluators[0], crew, self.here, self.sinks[0].work_folder, self._say)
            gather_models(found, scopes_of(self.todo), site, calibrate)
            self._say("")
            self._jobs(crew, found)
        finally:
            stop.set()
            stopped.wait()

    def report(self, started: float, kept: int) -> Report:
        """Return what happened until now, the bytes of all processes; outputs are the first process's to tell."""
        everyone: list[Any] = self.here.gather((self._read(), self.meter.done))
        return Report(
            outputs=tuple(written(sink) for sink in self.sinks) if self.here.rank == 0 else (),
            seconds=time.monotonic() - started,
            bytes_read=sum(read for read, _ in everyone),
            bytes_written=sum(done for _, done in everyone),
            peak_rss=peak_rss(),
            workers=self.schedule.workers,
            device=self.here.device.type,
            resumed=kept,
            warnings=self.schedule.plan.warnings,
            processes=self.here.size,
            samples=tuple(self.samples.taken),
        )

    def _read(self) -> int:
        return sum(evaluator.bytes_read for evaluator in self.evaluators)

    def _tick(self, listener: Listener | None, stop: threading.Event, stopped: threading.Event) -> None:
        try:
            self.samples.take(self._read(), self.meter.done)
            while not stop.wait(0.1):
                self.samples.offer(self._read(), self.meter.done)
                if listener is not None:
                    listener(self._progress())
            self.samples.take(self._read(), self.meter.done)
        finally:
            stopped.set()

    def _say(self, text: str) -> None:
        """Take what is to be told of progress until something else is."""
        self._said = text

    def _progress(self) -> Progress:
        doing = (self._said, *(reader.doing() for reader in self._readers), self.publishing.doing())
        # a reader that wraps another one may say what that one says
        return self.meter.progress(", ".join(dict.fromkeys(filter(None, doing))))

    @contextlib.contextmanager
    def telling(self, listener: Listener | None) -> Iterator[None]:
        """Tell of the publishing, which may take longer than the work."""
        stop = threading.Event()

        def tell() -> None:
            while listener is not None and not stop.wait(0.1):
                listener(self._progress())

        if self.publishing:
            threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    def _jobs(self, crew: Crew, found: dict[int, Any]) -> None:
        syncer = Syncer(self._committed, waited_for=bool(self.publishing))
        runs = (JobRun(job, self.sinks, found, syncer.done, self.meter) for job in self._read_ahead())
        try:
            crew.run((job_run.phases, job_run.job.held) for job_run in runs)
        finally:
            syncer.close()  # also after an error or Ctrl-C: what is finished is journaled

    def _read_ahead(self) -> Iterator[Job]:
        """Yield the jobs; as each begins, the system reads the beginning of one that is soon to come."""
        ahead = self.schedule.workers + 1
        for index, job in enumerate(self.mine):
            for soon in self.mine[index + ahead : index + ahead + 1]:
                for root in soon.roots:
                    prefetch(root, 0, GATHER_SPAN)
            yield job

    def _committed(self, sink: Sink, entry: Entry) -> None:
        self.entries[self._index[id(sink)]][entry.name] = entry
        self.publishing.committed(sink, entry.name)
        self.host.hook.surgery_job_done(
            job=JobDone(output=sink.output.name, tensor=entry.name, nbytes=entry.nbytes, xxh3=entry.xxh3)
        )


def _expect(jobs: Sequence[Job]) -> None:
    """Tell every reader what the jobs will ask it for, in their order."""
    wanted: dict[Checkpoint, dict[str, None]] = {}
    for source in sources(*(root for job in jobs for root in job.roots)):
        wanted.setdefault(source.checkpoint, {})[source.spec.name] = None
    for checkpoint, names in wanted.items():
        checkpoint.expect(names)


def share(jobs: Sequence[Job], here: World) -> list[Job]:
    """Return a process's contiguous share of jobs, balanced by the bytes that they read and write."""
    total = sum(job.reads + job.writes + 1 for job in jobs)
    low, high = here.rank * total // here.size, (here.rank + 1) * total // here.size
    taken, at = [], 0
    for job in jobs:
        if low <= at < high:
            taken.append(job)
        at += job.reads + job.writes + 1
    return taken


def _sinks(plan: Plan, layouts: Sequence[ShardLayout]) -> list[Sink]:
    """Return a sink for each output; equal digests mean equal bytes, so that a later run knows what it may keep."""
    nodes = Digests()
    policy = plan.recipe.on_nonfinite

    def digests(output: Output) -> dict[str, str]:
        return {t.spec.name: f"{nodes.of(t.node).hex()}-{t.spec.dtype}-{policy}" for t in output.tensors}

    return [
        Sink(output, layout, digests(output)) for output, layout in zip(plan.outputs, layouts, strict=True)
    ]


def _open(sinks: Sequence[Sink], here: World, *, resume: bool) -> int:
    """Claim and open all outputs; return how many tensors an earlier run has finished."""
    if here.rank == 0:
        for sink in sinks:
            sink.lock()
        for sink in sinks:
            sink.open(resume=resume)
    done = here.gather([sink.done for sink in sinks])[0]
    if here.rank != 0:
        for sink, entries in zip(sinks, done, strict=True):  # type: ignore[call-overload]
            sink.join(entries, here.rank)
    return sum(len(sink.done) for sink in sinks)


def _collect(sinks: Sequence[Sink], here: World, entries: list[dict[str, Entry]]) -> None:
    """Collect what all processes wrote."""
    everything: list[Any] = here.gather(entries)
    for index, sink in enumerate(sinks):
        for theirs in everything:
            sink.done |= theirs[index]


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, and only the first of them: what is finished is journaled before the run stops."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal told
        if not told:
            told = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
