"""A LoRA adapter as a model of its own: tensors A and B of every module, in the space of factors.

    ΔW = B·A        the scale is in B already, so that factors of several adapters speak of the same thing

Names are those in the file. The config says so too: with it the tensors mean to peft what they meant before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import CheckpointError, PlanError
from surgery.ops import Space
from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.folded import FoldedCheckpoint
from surgery_hf.peft_config import CONFIG, Config, as_adapter, read_config
from surgery_hf.peft_edits import Edit
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_keys import Part, parse_keys

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS: Final = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))
_STORED: Final = "read it with `decode: false` to see what is stored"


@dataclass(frozen=True, slots=True)
class Times(Formula):
    """A tensor times a number."""

    factor: float

    def parts(self) -> list[str]:
        """Return nothing: it needs no other tensor."""
        return []

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return 0."""
        return 0

    def decode(self, reading: Reading) -> Held:
        """Return nothing."""
        return {}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Multiply."""
        W.mul_(self.factor)


def adapter_folder(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of a LoRA adapter that was opened like a model; None if the checkpoint is none."""
    ends = tuple(part.value for pair in _PAIRS for part in pair)
    name = next((name for name in checkpoint.tensors if name.endswith(ends)), None)
    extent = checkpoint.extent(name) if name else None
    folder = Path(extent.file).parent if extent else None
    return folder if folder and (folder / CONFIG).is_file() else None


def factors_of(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Return an adapter's factors. Raises CheckpointError for one that is more than a sum of products."""
    try:
        config = read_config(folder)
    except PlanError as error:
        problems = [finding.what for finding in error.findings]
        raise CheckpointError(
            "\n".join([*problems, f"{folder}: holds no plain factors; {_STORED}"])
        ) from None
    modules, scales = parse_keys(checkpoint.tensors), config.scales
    wrong = [*_not_factors(modules.unknown, config), *_misfits(modules.modules, checkpoint, config)]
    if wrong:
        raise CheckpointError("\n".join(f"{folder}: {what}; {_STORED}" for what in wrong))
    edits = {
        parts[b]: Edit(update=Times(scales.scale_of(module)))
        for module, parts in modules.modules.items()
        for _, b in _PAIRS
        if b in parts and scales.scale_of(module) != 1
    }
    view = FoldedCheckpoint(checkpoint, MemoryCheckpoint({}), edits)
    said = {**config.said, "use_rslora": False, "lora_alpha": scales.rank}
    said["alpha_pattern"] = {pattern.expression: pattern.value for pattern in scales.ranks}
    view.config, view.space = said, Space.FACTORS
    view.description = as_adapter(said)
    return view


def _not_factors(unknown: list[str], config: Config) -> Iterator[str]:
    if config.scales.dora:
        yield "`use_dora` scales rows of the sum, which is no product of two factors"
    if unknown:
        yield f"{unknown[0]} is not a name that peft gives"


def _misfits(modules: Mapping[str, Mapping[str, str]], adapter: Checkpoint, config: Config) -> Iterator[str]:
    """Yield what is no pair of the rank that the config says; one line for each kind of fault."""
    told: dict[str, Any] = {}
    for module, parts in modules.items():
        pair = next((pair for pair in _PAIRS if set(pair) == set(parts)), None)
        if pair is None:
            other = next((name for part, name in parts.items() if not any(part in p for p in _PAIRS)), None)
            what = "is no factor" if other else "stands without its other factor"
            told.setdefault(what, other or next(iter(parts.values())))
            continue
        a, b = (adapter.tensors[parts[part]] for part in pair)
        rank = config.scales.rank_of(module)
        if a.shape[:1] != (rank,) or b.shape[1:2] != (rank,):
            told.setdefault(f"factors of shapes {a.shape} and {b.shape} are not of rank {rank}", a.name)
        if not (DTYPES[a.dtype].arithmetic and DTYPES[b.dtype].arithmetic):
            told.setdefault(f"is stored as {a.dtype}, no float", a.name)
    yield from (f"{name}: {what}" for what, name in told.items())
