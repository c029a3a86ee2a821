"""The first pass of MODEL ops: gather over all tensors of a step, fold in the model's order, solve once.

Every process gathers a contiguous share and all of them fold the shares in the order of ranks. A MODEL op's fold must
therefore be associative to the last bit (counts, or lists of floats for an exact sum), which `surgery.testing` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from surgery.execute.contract import attempt
from surgery.execute.crew import Crew
from surgery.execute.device import World
from surgery.execute.evaluate import Held
from surgery.execute.needs import Fold, Needs, Phases, Unit, gather_units
from surgery.ops import BLOCK, Reduce, Scan
from surgery.plan.nodes import Apply, Scope, inputs_of, walk
from surgery.schedule.jobs import Job, held_bytes


def scopes_of(jobs: Iterable[Job]) -> list[Scope]:
    """Return the scopes that jobs need, inner ones first."""
    found: dict[int, Scope] = {}
    for job in jobs:
        for node in walk(*job.roots):
            if isinstance(node, Apply) and node.scope is not None and id(node.scope) not in found:
                for inner in scopes_below(node.scope):
                    found.setdefault(id(inner), inner)
    return list(found.values())


def scopes_below(scope: Scope) -> Iterator[Scope]:
    """Yield the scopes that a scope's members are computed from, then the scope itself."""
    seen: set[int] = set()
    for member in scope.members:
        for node in walk(*([member.base] if member.base else []), *member.models):
            inner = node.scope if isinstance(node, Apply) else None
            if inner is not None and inner is not scope and id(inner) not in seen:
                seen.add(id(inner))
                yield from scopes_below(inner)
    yield scope


def gather_models(found: dict[int, Any], scopes: Sequence[Scope], crew: Crew, here: World) -> None:
    """Add what each scope's op finds to `found`, by the scope's id."""
    for scope in scopes:
        found[id(scope)] = _gather(scope, found, crew, here) if scope.numel else None


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
