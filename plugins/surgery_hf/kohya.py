"""Adapters as kohya's scripts write them, a file for each: `lora_unet_down_blocks_0_….lora_down.weight` and so on.

    lora_down.weight  A [r, in]        lora_up.weight  B [out, r]        alpha  []: the scale is alpha/r, 1 without it

A convolution's factors may have a kernel between them (`lora_mid`, see `kohya_mid`), which goes into A.

A module's name has underscores in the place of dots, so that only a base can say which module it is. Shown here with
the scale in B, without `alpha`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.checkpoint.base import Checkpoint
from surgery.errors import CheckpointError
from surgery.ops import Space
from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.folded import FoldedCheckpoint
from surgery_hf.kohya_mid import MID, WithoutMids, mid_fault
from surgery_hf.peft_config import as_adapter
from surgery_hf.peft_edits import Edit
from surgery_hf.peft_formula import Formula, Held, Reading

if TYPE_CHECKING:
    from torch import Tensor

_DOWN: Final = ".lora_down.weight"
_UP: Final = ".lora_up.weight"
_ALPHA: Final = ".alpha"
_STORED: Final = "read it with `decode: false` to see what is stored"


@dataclass(frozen=True, slots=True)
class ByAlpha(Formula):
    """A factor times alpha/rank."""

    alpha: str
    rank: int

    def parts(self) -> list[str]:
        """Return the scalar."""
        return [self.alpha]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return 1."""
        return 1

    def decode(self, reading: Reading) -> Held:
        """Return the scalar."""
        return {"alpha": reading.whole(self.alpha)}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Multiply; by 1 it is the same bytes."""
        W.mul_(float(held["alpha"].double()) / self.rank)


def is_kohya(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is such a file."""
    return any(name.endswith(_DOWN) for name in checkpoint.tensors)


def kohya_factors(checkpoint: Checkpoint) -> Checkpoint:
    """Return such a file's factors. Raises CheckpointError for what is no pair of them, as LyCORIS' other kinds are."""
    wrong = list(_wrong(checkpoint.tensors))
    if wrong:
        raise CheckpointError("\n".join(f"{checkpoint.location}: {what}; {_STORED}" for what in wrong))
    if any(name.endswith(MID) for name in checkpoint.tensors):
        checkpoint = WithoutMids(checkpoint)
    edits = {}
    for name, spec in checkpoint.tensors.items():
        alpha = name.removesuffix(_UP) + _ALPHA
        if name.endswith(_UP) and alpha in checkpoint.tensors:
            edits[name] = Edit(update=ByAlpha(alpha, spec.shape[1]))
    view = FoldedCheckpoint(checkpoint, checkpoint, edits)
    view.tensors = {name: spec for name, spec in view.tensors.items() if not name.endswith(_ALPHA)}
    view.config, view.space = {}, Space.FACTORS
    view.description = as_adapter({})
    return view


def _wrong(specs: Mapping[str, TensorSpec]) -> Iterator[str]:
    """Yield what stands against it, one line for each kind of fault."""
    told: dict[str, str] = {}
    for name, spec in specs.items():
        what = _fault(name, spec, specs)
        if what:
            told.setdefault(what, name)
    yield from (f"{name}: {what}" for what, name in told.items())


def _fault(name: str, spec: TensorSpec, specs: Mapping[str, TensorSpec]) -> str | None:
    end = next((end for end in (_DOWN, _UP, _ALPHA, MID) if name.endswith(end)), None)
    if end is None:
        return "is no factor of a LoRA"
    module = name.removesuffix(end)
    a, b = specs.get(module + _DOWN), specs.get(module + _UP)
    if a is None or b is None:
        return "stands without its factors" if end in (_ALPHA, MID) else "stands without its other factor"
    if not DTYPES[spec.dtype].arithmetic:
        return f"is stored as {spec.dtype}, no float"
    if end == _ALPHA:
        return None if spec.numel == 1 else f"is a tensor of shape {spec.shape}, no number"
    if end == MID:
        return mid_fault(name, specs)
    # a kernel between the two has A's rank and B's, which may differ
    rank = specs.get(module + MID, a).shape[:1]
    if len(a.shape) < 2 or rank != b.shape[1:2]:
        return f"factors of shapes {a.shape} and {b.shape} have no product"
    return None
