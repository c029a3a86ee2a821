"""Numbered runs in the names of models that no table knows: `down_blocks.0.`, `down_blocks.1.`, ...

A run is a path with members 0 to n-1 behind it. It is a stack of layers if there are at least two, or its path
says so (`albert_layer_groups.0`), and a member holds four tensors or more on average: an MLP that is a Sequential
holds one or two. Only the outermost number of a name counts: `stages.1.layers.0.` lies in layer 1 of `stages`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from surgery.tensors import TensorSpec

_NUMBER: Final = re.compile(r"^(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.(?P<index>\d+)\.(?P<rest>.+)$")
_SPEAKING: Final = re.compile(r"(?:layers?|blocks?|groups?|stages?|cells|resnets|attentions)$")
_TENSORS: Final = 4
# Beside stacks that are known, small runs are no stacks of the model's own: wav2vec 2.0's convolutions are 5 %.
SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor of a run: the run's path, the number behind it, and the rest of the name."""

    path: str
    index: int
    rest: str


def member(name: str) -> Member | None:
    """Return where the outermost number of a name puts it; None for a name without one."""
    found = _NUMBER.match(name)
    return Member(found["path"], int(found["index"]), found["rest"]) if found else None


def stacks_in(names: Iterable[str], specs: Mapping[str, TensorSpec], share: float = 0.0) -> dict[str, Member]:
    """Return the names that lie in stacks, with their places; a stack holds at least `share` of all parameters."""
    runs: dict[str, dict[str, Member]] = defaultdict(dict)
    for name in names:
        if found := member(name):
            runs[found.path][name] = found
    enough = share * sum(spec.numel for spec in specs.values())
    return {
        name: place
        for path, members in runs.items()
        if _is_stack(path, members) and sum(specs[name].numel for name in members) >= enough
        for name, place in members.items()
    }


def _is_stack(path: str, members: Mapping[str, Member]) -> bool:
    indices = {place.index for place in members.values()}
    contiguous = max(indices) == len(indices) - 1
    several = len(indices) > 1 or _SPEAKING.search(path) is not None
    return contiguous and several and len(members) >= _TENSORS * len(indices)
