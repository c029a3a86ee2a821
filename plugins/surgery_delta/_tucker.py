"""Changes as a core and factors: what delta.tucker stores and reads back. Imports torch where it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.notes import note_energy
from surgery.ops import Chunk
from surgery.tensors import TensorSpec
from surgery_delta._codec import Added, Held, floats, whole
from surgery_delta.tucker import Tucker, ranks, reduced

if TYPE_CHECKING:
    from torch import Tensor


def coded(x: Chunk, p: Tucker) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    from surgery.math.reduce import squared_norm
    from surgery_delta._checks import checks

    assert x.base is not None
    name, delta = x.signature.name, x.models[0] - x.base
    core, factors = decomposed(delta, ranks(delta.shape, p), p.sweeps, name)
    note_energy(x, squared_norm(core.reshape(-1)), squared_norm(delta.reshape(-1)))
    made = {f"{name}.factor{mode}": factor.to(delta.dtype) for mode, factor in factors.items()}
    check = checks(x.base.reshape(len(delta), -1))
    return {f"{name}.core": core.to(delta.dtype), **made, f"{name}.base": check}


def decomposed(
    delta: Tensor, core: Sequence[int], sweeps: int, name: str
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the core and the factors of the dimensions that are reduced, in float64.

    ‖core‖² is what is kept of ‖delta‖², for the factors have orthonormal columns.
    """
    wide = left = delta.double()
    factors: dict[int, Tensor] = {}
    modes = reduced(delta.shape, core)
    for mode in modes:
        factors[mode] = _leading(left, mode, core[mode], name)
        left = _times(left, factors[mode].T, mode)
    for _ in range(sweeps if delta.dim() > 2 and len(modes) > 1 else 0):
        for mode in modes:
            left = wide
            for other in modes:
                if other != mode:
                    left = _times(left, factors[other].T, other)
            factors[mode] = _leading(left, mode, core[mode], name)
            left = _times(left, factors[mode].T, mode)
    return left.contiguous(), factors


def _leading(X: Tensor, mode: int, rank: int, name: str) -> Tensor:
    """Return the leading left singular vectors [size, rank] of a tensor unfolded along a dimension."""
    from surgery.math.svd import svd_largest

    return svd_largest(X.movedim(mode, 0).flatten(1), rank, f"{name}[{mode}]")[0][:, :rank]


def _times(X: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Return X ×ₙ matrix: a dimension's vectors multiplied by a matrix [new, old]."""
    return (X.movedim(mode, -1) @ matrix.T).movedim(-1, mode)


@dataclass(frozen=True, slots=True)
class Factors(Added):
    """What delta.tucker stores; `factors` of those dimensions that have one."""

    spec: TensorSpec
    core: TensorSpec
    factors: tuple[tuple[int, TensorSpec], ...]

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the core first."""
        return self.core, *(spec for _, spec in self.factors)

    @property
    def held(self) -> int:
        """Return the numbers of the core and of all factors but the rows'."""
        return self.core.numel + sum(spec.numel for mode, spec in self.factors if mode)

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return the core and all factors but the rows'."""
        held = {str(mode): whole(source, spec) for mode, spec in self.factors if mode}
        return {"core": whole(source, self.core), **held}

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change: the core times their rows of the first factor, then the others."""
        core, factors = held["core"], dict(self.factors)
        if 0 in factors:
            rows = floats(source, factors[0], first, last)
            made: Tensor = (rows @ core.flatten(1)).view(-1, *core.shape[1:])
        else:
            made = core[first:last]
        for mode in factors:
            if mode:
                made = _times(made, held[str(mode)], mode)
        return made.flatten(1)
