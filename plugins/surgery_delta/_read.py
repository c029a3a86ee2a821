"""What a delta's headers say of a base: which of its tensors are coded, which are whole, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from surgery.checkpoint.base import Checkpoint
from surgery.tensors import TensorSpec
from surgery_delta._applied import Change
from surgery_delta._kinds import KINDS, Stored
from surgery_delta._stored import CHECK, Delta


@dataclass(slots=True)
class Headers:
    """What is stored of a base's tensors, and what is wrong, by kind: each tensor that is, with its fault."""

    changes: dict[str, Change] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong, one line for each kind."""
        if self.unknown:
            yield f"it has no {self.unknown[0]}{_more(self.unknown)}"
        if self.misfits:
            yield f"{self.misfits[0]}{_more(self.misfits)}"


def _more(like: list[str]) -> str:
    return f" (and {len(like) - 1} more such tensors)" if len(like) > 1 else ""


def read_headers(delta: Checkpoint, base: Checkpoint, p: Delta) -> Headers:
    """Sort a delta's tensors by the base's that they belong to, and compare shapes."""
    found = Headers()
    coded: dict[str, dict[str, TensorSpec]] = {}
    for name, spec in delta.tensors.items():
        home, _, suffix = name.rpartition(".")
        if name in base.tensors:
            _take_whole(found, spec, base.tensors[name])
        elif home in base.tensors:
            coded.setdefault(home, {})[suffix] = spec
        else:
            found.unknown.append(home if suffix == CHECK else name)
    coded_there = set(found.unknown)
    found.unknown = [name for name in found.unknown if name.rpartition(".")[0] not in coded_there]
    for home, stored in coded.items():
        _take_coded(found, base.tensors[home], stored, p)
    return found


def _take_whole(found: Headers, spec: TensorSpec, base: TensorSpec) -> None:
    if spec.shape == base.shape:
        found.whole.append(spec.name)
    else:
        found.misfits.append(f"its {spec.name} is {base.shape}, the delta's is {spec.shape}")


def _take_coded(found: Headers, base: TensorSpec, stored: Stored, p: Delta) -> None:
    kind = KINDS[p.codec]
    layout = kind.layout(base, stored, p)
    wanted = {part.spec.name: part.spec for part in layout}
    if {spec.name: spec for spec in stored.values()} == wanted:
        found.changes[base.name] = Change(kind.codec(base, stored, p), stored[CHECK])
        return
    got = ", ".join(f"{suffix} {spec.shape}" for suffix, spec in sorted(stored.items()))
    fit = ", ".join(f"{name.removeprefix(base.name)[1:]} {wanted[name].shape}" for name in sorted(wanted))
    fit = fit or "no such parts"  # its shape cannot be cut as the parameters say
    found.misfits.append(f"its {base.name} is {base.shape}, a change of which has {fit}; got {got}")
