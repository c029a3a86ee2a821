"""Computes the statistics that ops need: prepared before any work, block by block in the first process.

What prompts make of a model is not kept: they are short, a run that goes on reads them again.

Of several processes the first computes, and the others are given what it finds, part by part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from surgery.calibrate.memory import free_at_once
from surgery.calibrate.prepare import Prepared, prepare
from surgery.calibrate.prompts import Reader
from surgery.calibrate.sequence import Sequence
from surgery.calibrate.skeleton import Skeleton
from surgery.calibrate.store import Store, forget_others
from surgery.execute.models import Site, Statistics
from surgery.plan.calibration import calibrations_of
from surgery.plan.model import Plan
from surgery.plan.nodes import Activations, Calibration, Digests, PromptRun

FOLDER: Final = "calibration-"


class Calibrator:
    """Computes the statistics of a plan's calibrations; called by a run for each, inner ones first."""

    def __init__(self, plan: Plan) -> None:
        """Check that all models can be run and all texts suffice. Raises PlanError before any work."""
        digests = Digests()
        found = calibrations_of(tensor.node for output in plan.outputs for tensor in output.tensors)
        texts = [calibration for calibration in found if isinstance(calibration, Calibration)]
        self._prepared = {id(calibration): prepare(calibration) for calibration in texts}
        self._names = {id(calibration): _name(digests, calibration) for calibration in texts}
        self._skeletons = {id(run): Skeleton(run) for run in found if isinstance(run, PromptRun)}

    def __call__(self, calibration: Activations, found: Mapping[int, Any], site: Site) -> Statistics:
        """Return the statistics of a calibration's members, or of calls that look at prompts, by tensor and `Need`.

        Raises OpError if a Linear's inputs cannot be seen or are not finite, ResourceError if the disk is full.
        """
        free_at_once()
        if isinstance(calibration, PromptRun):
            first = site.here.rank == 0
            seen = Reader(calibration, self._skeletons[id(calibration)], found, site).run() if first else None
            return site.here.gather(seen)[0]  # type: ignore[return-value]
        prepared = self._prepared[id(calibration)]
        if site.here.rank > 0:
            return _received(prepared, site)
        names = {key: f"{FOLDER}{name}-{site.here.device.type}" for key, name in self._names.items()}
        with _folder(site, names[id(calibration)]) as folder:
            if site.folder is not None:
                forget_others(site.folder, FOLDER, set(names.values()))
            store = Store(folder, (len(prepared.ids), prepared.ids.shape[1]))
            return Sequence(prepared, found, site, store).run()


def _name(digests: Digests, calibration: Calibration) -> str:
    """Return what tells a calibration's results from others': its digest, and the libraries that compute."""
    return f"{digests.calibration(calibration).hex()}-{version('torch')}-{version('transformers')}"


@contextmanager
def _folder(site: Site, name: str) -> Iterator[Path]:
    """Give a folder to work in: one that the next run finds, or one for now."""
    if site.folder is not None:
        yield site.folder / name
        return
    with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
        yield Path(folder)


def _received(prepared: Prepared, site: Site) -> Statistics:
    """Return what the first process finds, part by part as it finds it."""
    statistics: dict[str, Mapping[str, torch.Tensor]] = {}
    for _ in prepared.parts:
        statistics |= site.here.gather(None)[0]  # type: ignore[call-overload]
    return statistics
