"""What ops noted about an output's tensor on the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from surgery.execute.contract import attempt, wrong_result
from surgery.execute.held import Held
from surgery.notes import Noted, take_note
from surgery.ops import Reduce
from surgery.plan.nodes import Apply, Member, Node, walk, weights_of


def noted(root: Node, held: Held) -> tuple[Noted, ...]:
    """Return what ops noted about the tensors that one descends from, and about itself; the earliest first."""
    calls = [node for node in walk(root, below=_descent) if isinstance(node, Apply)]
    told = ((call, held.notes.get(id(call)) or _of_found(call, held.found)) for call in calls)
    return tuple(Noted(call.step, call.signature.name, numbers) for call, numbers in told if numbers)


def _descent(node: Node) -> tuple[Node, ...]:
    """Return what a tensor descends from: of a group its own member alone."""
    return (node.group.members[node.name],) if isinstance(node, Member) else weights_of(node)


def _of_found(call: Apply, found: Mapping[int, Any]) -> Mapping[str, float]:
    """Return what an op that gathers notes of what it found."""
    op, scope = call.op.implementation, call.scope
    key = id(call if scope is None else scope)
    if not isinstance(op, Reduce) or type(op).notes is Reduce.notes or found.get(key) is None:
        return {}
    signature = call.signature if scope is None else replace(call.signature, numel=scope.numel)
    numbers: dict[str, float] = {}
    for name, number in attempt(call, op.notes, signature, call.params, found[key]).items():
        if wrong := take_note(numbers, name, number):
            raise wrong_result(call, wrong)
    return numbers
