"""SHiRA (Bhardwaj et al. 2024, arXiv:2406.13175): a few numbers of a weight changed, wherever they are.

W'[i_k, j_k] = W[i_k, j_k] + v_k
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_module import Changes, DoesNotFit, Kind, Module, words

if TYPE_CHECKING:
    from torch import Tensor

_MATRIX: Final = 2
_LARGEST: Final = 1 << 24  # places are read as float32


@dataclass(frozen=True, slots=True)
class Scattered(Formula):
    """Numbers `values` [n] added at `places` [2, n], rows first, of a tensor of that `shape`."""

    values: str
    places: str
    shape: tuple[int, int]

    def parts(self) -> list[str]:
        """Return the values and the places."""
        return [self.values, self.places]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the values and both places of each."""
        return 3 * specs[self.values].numel

    def decode(self, reading: Reading) -> Held:
        """Return rows, columns and values, in the order of rows. Raises CheckpointError for places outside."""
        import torch

        rows, columns = places = reading.whole(self.places)
        ends = torch.tensor(self.shape, dtype=places.dtype)[:, None]
        if bool(((places < 0) | (places >= ends)).any()):
            what = f"names places outside of a weight of shape {self.shape}"
            raise CheckpointError(f"{self.places}: {what}; fold it into the base that it was trained on")
        order = torch.sort(rows, stable=True).indices
        return {"rows": rows[order], "columns": columns[order], "values": reading.whole(self.values)[order]}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add what lies in these rows."""
        import torch

        ends = torch.tensor([first, first + len(W)], dtype=held["rows"].dtype)
        begin, end = torch.searchsorted(held["rows"], ends).tolist()
        rows, columns, values = (held[name][begin:end] for name in ("rows", "columns", "values"))
        W.index_put_((rows.long() - first, columns.long()), values, accumulate=True)


def changes(module: Module) -> Changes:
    """Return what is added to a module's weight."""
    values, places = module.need(".shira_weight", ".shira_indices")
    if len(module.weight.shape) != _MATRIX or max(module.weight.shape) > _LARGEST:
        raise module.refuse(values)
    count = module.shape(values)
    if len(count) != 1 or module.shape(places) != (2, *count):
        what = f"has shape {module.shape(places)} for values of {count}"
        raise DoesNotFit(places, f"{what}; save the adapter again")
    stored = module.specs[places].dtype
    if DTYPES[stored].arithmetic:
        raise DoesNotFit(places, f"is stored as {stored}, places are integers; save the adapter again")
    return Changes(Scattered(values, places, (module.rows, module.columns)))


SHIRA: Final = Kind(
    "SHIRA",
    (".shira_weight", ".shira_indices"),
    words("r mask_type mask_fn random_seed init_weights fan_in_fan_out"),
    changes,
    integers=(".shira_indices",),
)
