"""Candidates' tensors, planned from headers and computed in memory by the engine's own workers.

A candidate is a plan; its tensors have digests, and equal digests mean equal bytes. Sources are opened once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

import xxhash

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.sidecars import put_sidecars
from surgery.errors import CheckpointError
from surgery.host import Host
from surgery.ops import File, Split
from surgery.plan.model import Output, OutputTensor, Plan
from surgery.plan.nodes import Apply, Digests, Node, beside, inputs_of, walk
from surgery.plan.resolve import resolve
from surgery.recipe.model import Recipe
from surgery.schedule.jobs import CHUNK, Job, make_jobs
from surgery.schedule.options import RunOptions
from surgery.search.kept import KeptCheckpoint, Room
from surgery.search.reuse import Shared
from surgery.trials import Subject

if TYPE_CHECKING:
    import torch

    from surgery.execute.evaluate import Evaluator
    from surgery.execute.jobs import JobRun
    from surgery.execute.needs import Phases

# Bytes of tensors that are made before they are handed over: enough work for all workers, little beside a model.
BATCH: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A planned recipe; `digests` are those of its tensors as they would be stored, `nodes` those of all nodes."""

    plan: Plan
    digests: Mapping[str, str]
    nodes: Digests
    files: Path  # a folder for files that steps make

    @property
    def output(self) -> Output:
        """Return the model that the recipe makes."""
        return self.plan.outputs[0]

    def made(self) -> str:
        """Return the digest of tensors, config.json and files beside them. Raises CheckpointError if one is gone."""
        files = {name: file_digest(file) for name, file in self.output.sidecars.items()}
        told = json.dumps([self.output.config, dict(self.digests), files], sort_keys=True, default=str)
        return xxhash.xxh3_128_hexdigest(told.encode())

    def subject(self, device: str) -> Subject:
        """Return what an evaluator is told of it."""
        output = self.output
        specs = {tensor.spec.name: tensor.spec for tensor in output.tensors}
        beside = _as_files(output.sidecars, self.files)
        return Subject(output.config, beside, specs, self.plan.recipe.folder.absolute(), device)


def file_digest(file: File) -> str:
    """Return a digest of what a file holds. Raises CheckpointError if it cannot be read."""
    try:
        return xxhash.xxh3_128_hexdigest(file if isinstance(file, bytes) else file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file!s}: cannot be read: {error.strerror}; put it back") from error


def _as_files(sidecars: Mapping[str, File], folder: Path) -> Mapping[str, Path]:
    """Return sidecars as files: where they are, or all of them in a folder if a step makes one."""
    found = {name: file for name, file in sidecars.items() if isinstance(file, Path)}
    if len(found) == len(sidecars):
        return found
    put_sidecars(sidecars, folder)
    return {name: folder / name for name in sidecars}


class Workbench:
    """Plans recipes on models that stay open, and computes their tensors."""

    def __init__(self, host: Host, options: RunOptions) -> None:
        self._host, self._options = host, options
        self._room = Room(options.budget() // 2)
        self._opened: dict[str, Checkpoint] = {}
        self._shared = Shared(self._room)
        self._evaluators: list[Evaluator] = []
        self._found: dict[Hashable, Any] = {}  # what gathers found: a few numbers for each tensor
        self._files = Path(mkdtemp(prefix="surgery-"))
        self._cleaned = finalize(self, rmtree, self._files, ignore_errors=True)

    def plan(self, recipe: Recipe) -> Candidate:
        """Return a recipe's candidate, from headers alone. Raises what planning raises."""
        plan = resolve(recipe, self._host, write=False, opened=self._opened)
        for name, checkpoint in plan.checkpoints.items():
            if name not in self._opened:
                self._opened[name] = KeptCheckpoint(checkpoint, self._room)
        nodes = Digests()
        tensors = plan.outputs[0].tensors
        digests = {t.spec.name: f"{nodes.of(t.node).hex()}-{t.spec.dtype}" for t in tensors}
        return Candidate(plan, digests, nodes, self._files)

    def tensors(self, candidate: Candidate, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield some of a candidate's tensors, on the CPU in their stored dtype. Raises what executing raises."""
        wanted = [tensor for tensor in candidate.output.tensors if tensor.spec.name in names]
        fewer = self._shared.rewritten(
            wanted, candidate.nodes, lambda shared: dict(self._computed(candidate, shared))
        )
        yield from self._computed(candidate, fewer)

    def _computed(
        self, candidate: Candidate, tensors: Sequence[OutputTensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        jobs = make_jobs([replace(candidate.output, tensors=tuple(tensors))], self._options.chunk or CHUNK)
        found: dict[int, Any] = {}
        self._gather(candidate, jobs, found)
        for batch in _batches(jobs):
            keys = found_keys([root for job in batch for root in job.roots], candidate.nodes)
            known = {node: self._found[key] for node, key in keys.items() if key in self._found}
            yield from self._made(batch, {**found, **known}, keys).items()

    def close(self) -> None:
        """Close the source files."""
        self._cleaned()
        for checkpoint in self._opened.values():
            checkpoint.close()

    def _crew(self, policy: Any) -> Any:
        from surgery.execute.crew import Crew
        from surgery.execute.device import World, places
        from surgery.execute.evaluate import Evaluator

        if not self._evaluators:
            spots = places(World(), self._options.workers())
            self._evaluators = [Evaluator(place, policy) for place in spots]
        return Crew(self._evaluators, self._options.budget() // 2)

    def _gather(self, candidate: Candidate, jobs: Sequence[Job], found: dict[int, Any]) -> None:
        """Find what jobs need to know of whole models: thresholds, and statistics of activations."""
        from surgery.api import calibrator
        from surgery.execute.crew import one_thread_a_worker
        from surgery.execute.device import World
        from surgery.execute.models import Site, gather_models, scopes_of

        crew = self._crew(candidate.plan.recipe.on_nonfinite)
        with one_thread_a_worker():
            site = Site(self._evaluators[0], crew, World())
            gather_models(found, scopes_of(jobs), site, calibrator(candidate.plan))

    def _made(
        self, jobs: Sequence[Job], found: dict[int, Any], keys: Mapping[int, Hashable]
    ) -> dict[str, torch.Tensor]:
        """Return what some jobs make, in the plan's order, whichever worker was first."""
        from surgery.execute.crew import one_thread_a_worker
        from surgery.execute.jobs import JobRun
        from surgery.execute.memory_sink import MemorySink
        from surgery.execute.report import Meter

        sink = MemorySink()
        meter = Meter(total=sum(job.writes for job in jobs))
        runs = (JobRun(job, [sink], found, lambda _: None, meter) for job in jobs)  # type: ignore[list-item]
        with one_thread_a_worker():
            self._crew(None).run((partial(self._phases, run, keys), run.job.held) for run in runs)
        made = sink.tensors()
        names = (target.tensor.spec.name for job in jobs for target in job.targets)
        return {name: made[name] for name in names}

    def _phases(self, run: JobRun, keys: Mapping[int, Hashable]) -> Phases:
        """Yield a job's phases; then keep what its gathers found for the candidates to come."""
        found: Mapping[int, Any] = {}
        for units in run.phases():
            found = run.held.found
            yield units
        self._found.update((key, found[node]) for node, key in keys.items() if node in found)


def found_keys(roots: Sequence[Node], nodes: Digests) -> dict[int, Hashable]:
    """Return what the findings of ops below `roots` rest on, by the nodes' ids; equal keys: equal findings."""
    keys: dict[int, Hashable] = {}
    for node in walk(*roots):
        if isinstance(node, Apply) and node.split is Split.REDUCE:
            told = node.op.implementation.rests_on(node.signature, node.params)
            if told is not None:
                inputs = tuple(nodes.of(child) for child in inputs_of(node))
                based = node.base is not None
                keys[id(node)] = (node.op.name, node.op.version, told, based, beside(node), inputs)
    return keys


def _batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield jobs in runs of about `BATCH` bytes that they write."""
    batch: list[Job] = []
    size = 0
    for job in jobs:
        batch.append(job)
        size += job.writes
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
