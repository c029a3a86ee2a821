"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512): singular values between two factors, some of them cut away.

W' = W + s·B·diag(e)·A, s = α/(r₀ + 10⁻⁵), r₀ the rank that training began with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_module import Changes, DoesNotFit, Kind, Module, words

if TYPE_CHECKING:
    from torch import Tensor

# peft adds it to the rank, so that a rank of 0 divides by something.
_SLACK: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Weighed(Formula):
    """What is added to a tensor: scale·B·diag(e)·A of `a` [r, in], `b` [out, r], `e` [r, 1]; or its transpose."""

    a: str
    b: str
    e: str
    scale: float
    transposed: bool

    def parts(self) -> list[str]:
        """Return both factors and the singular values."""
        return [self.a, self.b, self.e]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of A; of B too, where its columns are the tensor's rows."""
        return specs[self.a].numel + (specs[self.b].numel if self.transposed else 0)

    def decode(self, reading: Reading) -> Held:
        """Return scale·diag(e)·A; of a transposed tensor both factors, turned over."""
        A = reading.whole(self.a).mul_(reading.whole(self.e)).mul_(self.scale)
        if not self.transposed:
            return {"right": A}
        return {"right": reading.whole(self.b).T.contiguous(), "left": A.T.contiguous()}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add rows of the product."""
        last = first + len(W)
        left = held["left"][first:last] if self.transposed else reading.rows(self.b, first, last)
        W.add_(left @ held["right"])


def changes(module: Module) -> Changes:
    """Return what is added to a module's weight."""
    a, b, e = module.need(".lora_A", ".lora_B", ".lora_E")
    rank, alpha = module.said.get("init_r"), module.said.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and alpha > 0):
        what = f"needs `init_r` and `lora_alpha` above 0, the config says {rank!r} and {alpha!r}"
        raise DoesNotFit(a, f"{what}; merge it with peft")
    transposed = bool(module.said.get("fan_in_fan_out"))
    out, into = (module.columns, module.rows) if transposed else (module.rows, module.columns)
    kept = module.shape(a)[0]
    for name, wanted in ((a, (kept, into)), (b, (out, kept)), (e, (kept, 1))):
        if module.shape(name) != wanted:
            raise module.refuse(name)
    return Changes(Weighed(a, b, e, alpha / (rank + _SLACK), transposed))


ADALORA: Final = Kind(
    "ADALORA",
    (".lora_A", ".lora_B", ".lora_E"),
    words(
        "lora_alpha lora_dropout fan_in_fan_out init_lora_weights r target_r init_r tinit tfinal deltaT beta1 beta2 "
        "orth_reg_weight total_step rank_pattern megatron_core qalora_group_size"
    ),
    changes,
)
