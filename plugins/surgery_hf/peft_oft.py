"""OFT (Qiu et al. 2023, arXiv:2306.07280) and BOFT of one factor (Liu et al. 2024, arXiv:2311.06243): inputs turned.

    W' = W·Rᵀ, R of blocks on the diagonal        exact: R = (I - Q)(I + Q)⁻¹, Q skew
    BOFT: W' = diag(s)·W·Rᵀ                       series of n terms: R = I + 2Q + 2Q² + … + Qⁿ⁻¹

The series is that of the inverse rotation and only nearly orthogonal; which of the two was trained the config says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_module import Changes, DoesNotFit, Kind, Module, words

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Turned(Formula):
    """Every row times blocks: `blocks` holds what Q is made of, for each block or, `shared`, for all.

    `terms`: of the series; None is exact. `inverse`: rows times R, not Rᵀ. `reach`: Q is shortened to it (COFT).
    `scales` (BOFT): each row is then multiplied by a number.
    """

    blocks: str
    size: int
    terms: int | None = None
    inverse: bool = False
    reach: float | None = None
    scales: str | None = None

    def parts(self) -> list[str]:
        """Return what blocks and scales are made of."""
        return [self.blocks, *([self.scales] if self.scales else [])]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of the blocks and scales."""
        spec = specs[self.blocks]
        count = spec.shape[1] if self.scales else spec.shape[0]
        return count * self.size**2 + (specs[self.scales].numel if self.scales else 0)

    def decode(self, reading: Reading) -> Held:
        """Return the blocks that rows are multiplied by, [1 or blocks, size, size]; found in float64."""
        stored = reading.whole(self.blocks)
        Q = self._skew(stored.double())
        R = (_cayley(Q) if self.terms is None else _series(Q, self.terms)).to(stored.dtype)
        held = {"R": R if self.inverse else R.mT.contiguous()}
        return held | ({"s": reading.whole(self.scales).flatten()} if self.scales else {})

    def _skew(self, stored: Tensor) -> Tensor:
        import torch

        if self.scales:
            (full,) = stored
            half: Tensor = (full - full.mT) / 2
            return half
        rows, columns = torch.triu_indices(self.size, self.size, 1)
        Q = stored.new_zeros(len(stored), self.size, self.size)
        Q[:, rows, columns] = stored
        Q = Q - Q.mT
        if self.reach is None:
            return Q
        reach, lengths = self.reach / math.sqrt(len(Q)), Q.flatten(1).norm(dim=1)[:, None, None]
        return torch.where(lengths <= reach, Q, Q * (reach / lengths))

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Multiply rows by the blocks."""
        cut = W.view(len(W), -1, self.size)
        R = held["R"].expand(cut.shape[1], -1, -1)
        W.copy_((cut.transpose(0, 1) @ R).transpose(0, 1).reshape(W.shape))
        if self.scales:
            W.mul_(held["s"][first : first + len(W)].unsqueeze(1))


def _cayley(Q: Tensor) -> Tensor:
    import torch

    eye = torch.eye(Q.shape[-1], dtype=Q.dtype).expand_as(Q)
    R: Tensor = torch.linalg.solve(eye + Q, eye - Q, left=False)
    return R


def _series(Q: Tensor, terms: int) -> Tensor:
    """Return I + 2Q + … as peft sums it: with two terms the last one is doubled, with more it is not."""
    import torch

    R = torch.eye(Q.shape[-1], dtype=Q.dtype).repeat(len(Q), 1, 1)
    if terms > 1:
        R = R + 2 * Q
    if terms > 2:
        power = Q @ Q
        R = R + 2 * power
        for _ in range(3, terms - 1):
            power = power @ Q
            R = R + 2 * power
        R = R + power @ Q
    return R


def _turned(module: Module) -> Changes:
    """Return how OFT changes a module's weight; embeddings are turned the other way round."""
    embedding = ".oft_embedding_R.weight" in module.parts
    (name,) = module.need(".oft_embedding_R.weight" if embedding else ".oft_R.weight")
    count, elements = module.shape(name)
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    blocks = module.columns // size if module.said.get("block_share") else count
    if size * (size - 1) // 2 != elements or blocks * size != module.columns:
        raise module.refuse(name)
    said = module.said
    terms = said.get("num_cayley_neumann_terms", 5) if said.get("use_cayley_neumann", True) else None
    reach = said.get("eps", 6e-5) if said.get("coft") else None
    for key, value, kinds in (("num_cayley_neumann_terms", terms, int), ("eps", reach, (int, float))):
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or value <= 0):
            raise DoesNotFit(
                name, f"`{key}` of its config must be a number above 0, got {value!r}; mend the config"
            )
    return Changes(Turned(name, size, terms, embedding, reach))


def _butterfly(module: Module) -> Changes:
    """Return how BOFT changes a module's weight."""
    blocks, scales = module.need(".boft_R", ".boft_s")
    factors, count, *size = module.shape(blocks)
    if factors != 1:
        what = f"has {factors} butterfly factors, whose shuffles are not folded; merge it with peft"
        raise DoesNotFit(blocks, what)
    if size[0] != size[1] or count * size[0] != module.columns:
        raise module.refuse(blocks)
    if math.prod(module.shape(scales)) != module.rows:
        raise module.refuse(scales)
    return Changes(Turned(blocks, size[0], scales=scales))


_CONV1D: Final = {
    "fan_in_fan_out": "rotations of weights that are [in, out] are not folded; merge it with peft"
}

OFT: Final = Kind(
    "OFT",
    (".oft_R.weight", ".oft_embedding_R.weight"),
    words(
        "r oft_block_size module_dropout init_weights coft eps block_share use_cayley_neumann "
        "num_cayley_neumann_terms"
    ),
    _turned,
    refused=_CONV1D,
)
BOFT: Final = Kind(
    "BOFT",
    (".boft_R", ".boft_s"),
    words("boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout init_weights"),
    _butterfly,
    refused=_CONV1D,
)
