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
from surgery.execute.memory_sink import MemorySink
from surgery.execute.models import Calibrate, Site, gather_models, scopes_of
from surgery.execute.report import Meter
from surgery.ops import BLOCK
from surgery.plan.model import OutputTensor, Plan
from surgery.schedule.jobs import Job, make_jobs


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
        alone = replace(self._plan.outputs[0], tensors=(self._tensors[name],))
        sink = MemorySink()
        for job in make_jobs([alone], BLOCK):
            with one_thread_a_worker(), torch.no_grad():
                self._run(job, sink)
        return sink.tensors()[name]

    def _run(self, job: Job, sink: MemorySink) -> None:
        needed = [scope for scope in scopes_of([job]) if id(scope) not in self._found]
        site = Site(self._work, Crew([self._work], job.held), World())
        gather_models(self._found, needed, site, self._calibrate)
        job_run = JobRun(job, [sink], self._found, lambda _: None, Meter(total=job.writes))  # type: ignore[list-item]
        for units in job_run.phases():
            for unit in units:
                unit(self._work)
