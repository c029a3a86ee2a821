"""How far an output's tensors are from the sources' tensors that they descend from: ‖out - source‖ / ‖source‖."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.plan.virtual import VirtualModel
from surgery.report.compare import Numbers, Stored, compare_tensors
from surgery.tensors import DTYPES, TensorInfo, TensorSpec, nbytes

Seen = Callable[[int, int, str], None]  # bytes done, of all, the tensor

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor: its layer (None outside of layers), its module there, how it differs, and whether it is encoded."""

    name: str
    layer: int | None
    module: str
    numbers: Numbers
    encoded: bool = False

    @property
    def relative(self) -> float:
        """Return ‖out - source‖ / ‖source‖; infinite where the source is zero or a gap is not finite."""
        relative = self.numbers.relative
        return math.inf if relative is None or self.numbers.nonfinite else relative


def changes(
    model: VirtualModel,
    tensors: Iterable[Mapping[str, Any]],
    sources: Mapping[str, Checkpoint],
    seen: Seen | None = None,
) -> list[Change]:
    """Return the change of every tensor of which a source is there, streaming both in bounded memory.

    model    the output, opened as any model is: encoded tensors are decoded if there is a decoder for them
    tensors  what report.json says of its tensors
    """
    pairs = list(_pairs(model, tensors, sources))
    several = len({info.role.stack for info in model.tensors.values() if info.role.layer is not None}) > 1
    total, done = sum(info.spec.nbytes for info, _, _ in pairs), 0
    found = []
    for info, source, encoded in pairs:
        difference = compare_tensors(info.name, source, Stored(model.donor, info.spec))
        done += info.spec.nbytes
        if seen is not None:
            seen(done, total, info.name)
        if difference.numbers is not None and difference.numbers.relative is not None:
            change = Change(info.name, info.role.layer, module_of(info, several), difference.numbers, encoded)
            found.append(change)
    return found


def module_of(info: TensorInfo, several: bool = False) -> str:
    """Return what a tensor is called in every layer: `self_attn.q_proj`, `mlp.experts.*.w1`.

    With `several` stacks, what stands before the layer is part of it: `encoder.block.*.layer.0.SelfAttention.q`.
    """
    name = info.name.removesuffix(".weight")
    if info.role.layer is None:
        return name
    before, number, behind = f".{name}.".partition(f".{info.role.layer}.")
    if not (number and behind):
        return name
    module = _NUMBER.sub("*", f".{behind}").strip(".")
    return f"{before}.*.{module}".strip(".") if several else module


def _pairs(
    model: VirtualModel, tensors: Iterable[Mapping[str, Any]], sources: Mapping[str, Checkpoint]
) -> Iterable[tuple[TensorInfo, Stored, bool]]:
    """Yield each tensor of the output that can be compared, and the stretch of a source that it descends from."""
    noted = {str(tensor.get("of") or tensor.get("name")): tensor for tensor in tensors}
    for name, info in model.tensors.items():
        tensor = noted.get(name, {})
        source = _source(tensor.get("from"), info, sources)
        if source is not None:
            yield info, source, "of" in tensor


def _source(
    noted: Mapping[str, Any] | None, info: TensorInfo, sources: Mapping[str, Checkpoint]
) -> Stored | None:
    if not noted or noted.get("model") not in sources:
        return None
    checkpoint, start = sources[noted["model"]], int(noted.get("start", 0))
    spec = checkpoint.tensors.get(str(noted.get("tensor")))
    if spec is None or not (DTYPES[spec.dtype].arithmetic and DTYPES[info.spec.dtype].arithmetic):
        return None
    if start < 0 or nbytes(start + info.spec.numel, spec.dtype) > spec.nbytes:
        return None
    return Stored(checkpoint, TensorSpec(spec.name, info.spec.shape, spec.dtype), start)
