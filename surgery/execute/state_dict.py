"""The result of a recipe as a mapping of tensors, computed when they are asked for; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from surgery.execute.crew import Crew, one_thread_a_worker
from surgery.execute.device import Place, World
from surgery.execute.evaluate import Evaluator
from surgery.execute.jobs import JobRun
from surgery.execute.models import Calibrate, Site, gather_models, scopes_of
from surgery.execute.report import Meter
from surgery.math.convert import torch_dtype
from surgery.ops import BLOCK
from surgery.plan.model import OutputTensor, Plan
from surgery.schedule.jobs import Job, make_jobs
from surgery.tensors import DTYPES, TensorSpec


class _Buffer:
    """Receives one tensor's bytes: what a Sink and its Writing are for a file."""

    def __init__(self) -> None:
        self.raw = torch.empty(0, dtype=torch.uint8)
        self._at = 0

    def begin(self, spec: TensorSpec) -> _Buffer:
        """Make room for a tensor; a job's other tensors are computed with it but not kept."""
        self.raw = torch.empty(spec.nbytes, dtype=torch.uint8)
        return self

    def stretch(self, start: int) -> _Buffer:
        """Begin writing at a byte."""
        self._at = start
        return self

    def write(self, data: memoryview) -> None:
        """Take bytes."""
        self.raw[self._at : self._at + len(data)] = torch.frombuffer(data, dtype=torch.uint8)
        self._at += len(data)

    def close(self) -> bool:
        """End a stretch; nobody waits for the tensor."""
        return False


class LazyStateDict(Mapping[str, torch.Tensor]):
    """Maps tensor names to tensors; each access computes its tensor anew, in the dtype that would be stored."""

    def __init__(self, plan: Plan, calibrate: Calibrate | None = None) -> None:
        self._plan = plan
        self._calibrate = calibrate
        self._tensors: dict[str, OutputTensor] = {t.spec.name: t for t in plan.outputs[0].tensors}
        self._work = Evaluator(Place(torch.device("cpu")), plan.recipe.on_nonfinite)
        self._found: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> torch.Tensor:
        spec = self._tensors[name].spec
        alone = replace(self._plan.outputs[0], tensors=(self._tensors[name],))
        buffer = _Buffer()
        for job in make_jobs([alone], BLOCK):
            with one_thread_a_worker(), torch.no_grad():
                self._run(job, buffer)
        values = buffer.raw.view(torch_dtype(spec.dtype))
        # torch counts pairs of 4-bit numbers
        return values.view(spec.shape) if DTYPES[spec.dtype].bits >= 8 else values.view(*spec.shape[:-1], -1)

    def _run(self, job: Job, buffer: _Buffer) -> None:
        needed = [scope for scope in scopes_of([job]) if id(scope) not in self._found]
        site = Site(self._work, Crew([self._work], job.held), World())
        gather_models(self._found, needed, site, self._calibrate)
        job_run = JobRun(job, [buffer], self._found, lambda _: None, Meter(total=job.writes))  # type: ignore[list-item]
        for units in job_run.phases():
            for unit in units:
                unit(self._work)
