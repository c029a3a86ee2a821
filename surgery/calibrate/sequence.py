"""One calibration, block by block, in memory that does not grow with the number of blocks.

    for every block:  fill it with tensors as the plan computes them
                      run all samples through it, summing what its Linears see    -> statistics, kept on disk
                      put the tensors in as the op changes them, by these statistics (if it changes any)
                      run all samples again, for the next block                   -> hidden states, in a file
                      take the tensors out

So each block sees what the blocks before it make when they are changed already. Samples are run one by one, each by
one worker in one thread, and their sums are added in the order of the samples: neither the number of workers nor an
interruption changes a bit. The model runs in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from surgery.calibrate.blocks import Blocks
from surgery.calibrate.filling import Filling
from surgery.calibrate.prepare import Prepared
from surgery.calibrate.skeleton import OUTSIDE
from surgery.calibrate.statistics import Adding, Seen, Sums, Watch, watched
from surgery.calibrate.store import States, Store
from surgery.errors import OpError
from surgery.execute.evaluate import Evaluator
from surgery.execute.models import Site, Statistics
from surgery.execute.needs import Fold, Phases
from surgery.ops import Need
from surgery.schedule.calibrations import cost_of

Found = dict[str, Mapping[str, torch.Tensor]]


class Sequence:
    """Goes through the parts of a model: its blocks, then, if the head is changed, what is outside of them."""

    def __init__(self, prepared: Prepared, found: Mapping[int, Any], site: Site, store: Store) -> None:
        self._prepared, self._site, self._store = prepared, site, store
        self._skeleton, self._device = prepared.skeleton, site.here.device
        self._cost = cost_of(prepared.calibration)
        self._besides = self._cost.besides
        self._blocks = Blocks(prepared.skeleton)
        self._statistics: Found = {}
        known = {**found, id(prepared.calibration): self._statistics}
        self._filling = Filling(self._skeleton, prepared.calibration, known, site, self._besides)

    def run(self) -> Statistics:
        """Return the statistics of all members; what an earlier run has found is not computed again."""
        parts = self._prepared.parts
        kept = {part: self._store.statistics(_label(part)) for part in self._prepared.members}
        if any(found is None and part in range(self._store.reached()) for part, found in kept.items()):
            self._store.forget_inputs()  # someone removed files
        if ready := all(found is not None for found in kept.values()):
            self._store.forget_inputs()
        else:
            self._begin()
        for part in parts:
            self._statistics |= kept.get(part) or {}
            if not ready:
                self._part(part, known=kept.get(part) is not None, last=part == parts[-1])
            members = self._prepared.members.get(part, ())
            self._site.here.gather({name: self._statistics[name] for name in members})
        self._store.forget_inputs()
        return self._statistics

    def _part(self, part: int, *, known: bool, last: bool) -> None:
        """Find a part's statistics, and what it hands on to the next; neither if it is there already."""
        if (part != OUTSIDE and self._store.reached() > part) or (last and known):
            return
        members = self._prepared.members.get(part, ())
        where = "head" if part == OUTSIDE else f"block {part + 1} of {len(self._skeleton.blocks)}"
        self._site.tell(f"{self._prepared.calibration.step}: activations of {where}")
        with self._filling.filled(part):
            if members and not known:
                self._keep(part, self._collect(part, members))
            if not last:
                if self._prepared.calibration.changes:
                    self._filling.change(members)
                self._hand_on(part)

    def _keep(self, part: int, found: Found) -> None:
        """Keep a part's statistics; large ones are from now on read from their file, which the system maps."""
        self._store.keep_statistics(_label(part), found)
        large = Need.GRAM in self._prepared.calibration.needs
        kept = self._store.statistics(_label(part)) if large else None
        self._statistics.update(kept or found)

    def _begin(self) -> None:
        """Learn how the model calls its blocks, and compute what the first one is given."""
        ids, blocks = self._prepared.ids, self._blocks
        self._skeleton.move_buffers(self._device)
        with torch.no_grad(), self._filling.filled_on_use():
            blocks.learn(ids[0].to(self._device))
            if len(ids) > 1:
                blocks.require_same(ids[1].to(self._device))
            if self._store.reached() < 0:
                with blocks.embedding():
                    hidden = blocks.embed(ids[0].to(self._device)).shape[-1]
                    with self._store.new_inputs(0, hidden) as states:
                        self._samples(lambda sample, ids: states.write(sample, blocks.embed(ids)))

    def _hand_on(self, block: int) -> None:
        """Write what a block makes of all samples."""
        with self._inputs(block) as before, self._store.new_inputs(block + 1, before.hidden) as after:

            def unit(sample: int, ids: torch.Tensor) -> None:
                made = self._blocks.run(block, before.read(sample).to(self._device))
                after.write(sample, made)

            self._samples(unit)

    def _collect(self, part: int, members: tuple[str, ...]) -> Found:
        """Return the statistics of a part's members."""
        places = {name: self._skeleton.place(name) for name in members}
        entries = dict(watched(p.target, self._skeleton.parameter(p.target)) for p in places.values())
        run = self._finish if part == OUTSIDE else partial(self._through, part)
        fold = Fold(Adding())
        with self._inputs(part) as states:

            def unit(sample: int, ids: torch.Tensor) -> None:
                watch = Watch(entries, self._prepared.calibration.needs, enough=part == OUTSIDE)
                run(watch, states.read(sample).to(self._device), ids)
                fold.add(sample, watch.sums)

            if part == OUTSIDE:
                with self._blocks.standing_in():
                    self._samples(unit)
            else:
                self._samples(unit)
        total: Sums = fold.total
        found: Found = {}
        for name, place in places.items():
            sums = total[place.target]
            self._require_sound(name, sums, place.expert)
            found[name] = {str(need): values[place.expert or 0].clone() for need, values in sums.items()}
        return found

    def _through(self, block: int, watch: Watch, hidden: torch.Tensor, ids: torch.Tensor) -> None:
        with watch:
            self._blocks.run(block, hidden)

    def _finish(self, watch: Watch, hidden: torch.Tensor, ids: torch.Tensor) -> None:
        try:
            with watch:
                self._blocks.finish(ids, hidden)
        except Seen:
            pass

    def _require_sound(self, name: str, sums: Mapping[str, torch.Tensor], expert: int | None) -> None:
        """Refuse statistics of what was never multiplied, or of activations that are not finite."""
        step, role = self._prepared.calibration.step, self._prepared.calibration.roles[name]
        if not sums[Need.TOKENS].any() and (expert is not None or role.expert is None):
            raise OpError(
                f"step {step}: the inputs of {name} cannot be seen: {type(self._skeleton.model).__name__} "
                "does not multiply by it as a Linear does; leave it out with `where:`"
            )
        if not bool(torch.isfinite(sums[Need.SQUARES]).all()):
            raise OpError(
                f"step {step}: the inputs of {name} on the calibration text are not finite; check the model"
            )

    @contextmanager
    def _inputs(self, part: int) -> Iterator[States]:
        """Open the samples as a part is given them."""
        states = self._store.inputs(len(self._skeleton.blocks) if part == OUTSIDE else part)
        try:
            yield states
        finally:
            states.close()

    def _samples(self, work: Callable[[int, torch.Tensor], None]) -> None:
        """Call a function with every sample, as many side by side as the memory allows."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what was put in is there for the workers' streams

        def begin(sample: int, ids: torch.Tensor) -> Phases:
            def unit(evaluator: Evaluator) -> None:
                work(sample, ids.to(self._device))
                evaluator.place.finish()

            return iter([[unit]])

        jobs = (
            (partial(begin, sample, ids), self._cost.sample) for sample, ids in enumerate(self._prepared.ids)
        )
        self._site.crew.run(jobs, self._besides)


def _label(part: int) -> str:
    return "outside" if part == OUTSIDE else f"block-{part}"
