"""Tensors as the plan computes them, put into a model without weights by all workers of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from surgery.calibrate.skeleton import OUTSIDE, Skeleton
from surgery.execute.jobs import JobRun
from surgery.execute.memory_sink import MemorySink
from surgery.execute.models import Site
from surgery.execute.report import Meter
from surgery.plan.nodes import Activations
from surgery.schedule.calibrations import calibration_jobs


class Filling:
    """Puts parts of a model in and takes them out. `found` is what ops have found so far, statistics among it."""

    def __init__(
        self, skeleton: Skeleton, calibration: Activations, found: dict[int, Any], site: Site, besides: int
    ) -> None:
        self._skeleton, self._calibration, self._found = skeleton, calibration, found
        self._site, self._besides = site, besides
        self._device = site.here.device

    @contextmanager
    def filled(self, block: int) -> Iterator[None]:
        """Put a block in, or what is outside of all; take it out in the end."""
        targets = self._skeleton.targets(block)
        try:
            self._fill(targets)
            yield
        finally:
            self._skeleton.empty(targets)

    @contextmanager
    def filled_on_use(self) -> Iterator[None]:
        """Put in what is outside of the blocks as soon as the model uses it: what comes behind them is not needed."""
        skeleton = self._skeleton
        targets: dict[str, list[str]] = {}
        for target in skeleton.targets(OUTSIDE):
            for name in skeleton.places.shared[target]:
                targets.setdefault(name.rpartition(".")[0], []).append(target)
        hooks = [
            skeleton.model.get_submodule(module).register_forward_pre_hook(self._filler(mine))
            for module, mine in targets.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            skeleton.empty(skeleton.targets(OUTSIDE))

    def change(self, members: Collection[str]) -> None:
        """Put tensors in as the op changes them, in place of what they were."""
        targets = list(dict.fromkeys(self._skeleton.place(name).target for name in members))
        self._skeleton.empty(targets)
        self._fill(targets, members)

    def _filler(self, targets: list[str]) -> Any:
        def fill(module: object, args: object) -> None:
            missing = [target for target in targets if self._skeleton.parameter(target).is_meta]
            if missing:  # workers find everything there: the first sample is run before they are
                self._fill(missing)

        return fill

    def _fill(self, targets: Collection[str], changed: Collection[str] = ()) -> None:
        """Compute parameters: all that are one tensor side by side, those that are fused of several one by one."""
        sources = self._skeleton.places.sources
        single = [target for target in targets if len(sources[target]) == 1]
        fused = [target for target in targets if len(sources[target]) > 1]
        for together in [single, *([target] for target in fused)]:
            values = self._values([name for target in together for name in sources[target]], changed)
            for target in together:
                self._skeleton.fill(target, values, self._device)

    def _values(self, names: Collection[str], changed: Collection[str]) -> Mapping[str, torch.Tensor]:
        """Return tensors of the step's input, in float32 on the CPU."""
        sink = MemorySink()
        jobs = calibration_jobs(self._calibration, names, changed)
        meter = Meter(total=sum(job.writes for job in jobs))
        runs = [JobRun(job, [sink], self._found, lambda _: None, meter) for job in jobs]  # type: ignore[list-item]
        self._site.crew.run(((run.phases, run.job.held) for run in runs), self._besides)
        return sink.tensors()
