"""What must be known before the first tensor is written: what MODEL ops find, and statistics of activations.

A MODEL op's first pass gathers over all tensors of a step, folds in the model's order and solves once.

Every process gathers a contiguous share and all of them fold the shares in the order of ranks. A MODEL op's fold must
therefore be associative to the last bit (counts, or lists of floats for an exact sum), which `surgery.testing` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from surgery.errors import PluginError
from surgery.execute.contract import attempt
from surgery.execute.crew import Crew
from surgery.execute.device import World
from surgery.execute.evaluate import Evaluator
from surgery.execute.held import Held
from surgery.execute.needs import Fold, Needs, Phases, Unit, gather_units
from surgery.ops import BLOCK, Reduce, Scan
from surgery.plan.nodes import Activations, Apply, Node, Scope, inputs_of, walk
from surgery.schedule.jobs import Job, held_bytes

Whole = Scope | Activations
Statistics = Mapping[str, Mapping[str, torch.Tensor]]  # by tensor, then by `Need`


def _unheard(text: str) -> None:
    """Do nothing with what is told of progress."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a calibration may use: an evaluator, all workers, a folder for what it keeps (None: it keeps nothing).

    `tell` is told in a few words what is being done.
    """

    work: Evaluator
    crew: Crew
    here: World
    folder: Path | None = None
    tell: Callable[[str], None] = _unheard


# From a calibration, what is found of whole models so far, and a place to work to the statistics.
Calibrate = Callable[[Activations, Mapping[int, Any], Site], Statistics]


def scopes_of(jobs: Iterable[Job]) -> list[Whole]:
    """Return what jobs need to know of whole models, inner ones first."""
    found: dict[int, Whole] = {}
    _collect([root for job in jobs for root in job.roots], found, set())
    return list(found.values())


def _collect(roots: Iterable[Node], found: dict[int, Whole], seen: set[int]) -> None:
    """Add the scopes and calibrations below some nodes, those that others rest on first."""
    for node in walk(*roots):
        for whole in (node.scope, node.calibration) if isinstance(node, Apply) else ():
            if whole is not None and id(whole) not in seen:
                seen.add(id(whole))
                _collect(_below(whole), found, seen)
                found[id(whole)] = whole


def _below(whole: Whole) -> Iterable[Node]:
    if isinstance(whole, Scope):
        return (child for member in whole.members for child in inputs_of(member))
    return whole.nodes.values()


def gather_models(
    found: dict[int, Any],
    wholes: Sequence[Whole],
    site: Site,
    calibrate: Calibrate | None = None,
) -> None:
    """Add what each scope's op finds, and each calibration's statistics, to `found` by its id."""
    for whole in wholes:
        if isinstance(whole, Scope):
            found[id(whole)] = _gather(whole, found, site.crew, site.here) if whole.numel else None
        else:
            if calibrate is None:
                raise PluginError(
                    f"step {whole.step}: needs activations, this call computes none; use `surgery run`"
                )
            found[id(whole)] = calibrate(whole, found, site)


def _gather(scope: Scope, found: dict[int, Any], crew: Crew, here: World) -> Any:
    first = scope.members[0]
    op: Reduce = first.op.implementation
    signature = replace(first.signature, numel=scope.numel)
    result: Any = None
    done = 0
    while (scan := attempt(first, op.scan, signature, first.params, result, done)) is not None:
        fold = Fold(op)
        crew.run(_passes(_share(scope.members, here), scan, result, fold, found))
        parts = [part for part in here.gather(fold.total) if part is not None]
        total = parts[0]
        for part in parts[1:]:
            total = attempt(first, op.fold, total, part)
        result = attempt(first, op.solve, signature, first.params, total, result)
        done += 1
    return result


def _passes(
    members: Sequence[Apply], scan: Scan, result: Any, fold: Fold, found: dict[int, Any]
) -> Iterator[tuple[Callable[[], Phases], int]]:
    """Yield a job for each tensor; their spans are numbered through, so that they fold in the model's order."""

    def phases(needs: Needs, units: list[Unit]) -> Callable[[], Phases]:
        return lambda: chain(needs.phases(), [units])

    index = 0
    for member in members:
        held = Held(found=dict(found))
        units = gather_units(member, scan, result, fold, held, index)
        index += len(units)
        below = inputs_of(member)
        yield phases(Needs(below, held, BLOCK), units), held_bytes(list(walk(*below)))


def _share(members: Sequence[Apply], here: World) -> list[Apply]:
    """Return a process's contiguous share of tensors, balanced by elements."""
    total = sum(max(member.spec.numel, 1) for member in members)
    low, high = here.rank * total // here.size, (here.rank + 1) * total // here.size
    taken, at = [], 0
    for member in members:
        if low <= at < high:
            taken.append(member)
        at += max(member.spec.numel, 1)
    return taken
