"""evolve.random: independent draws, the yardstick of all samplers."""

from __future__ import annotations

from collections.abc import Sequence

from surgery import Gene, Sampler, sampler
from surgery.ops import NoParams
from surgery.trials import Value


@sampler("evolve.random")
class Random(Sampler):
    """Draw every value evenly from its range, in the logarithm where the hole says so.

    Draw number i depends on the seed and i alone (Philox, counted), so that longer searches begin like shorter ones.
    """

    def __init__(self, genes: Sequence[Gene], params: NoParams, seed: int) -> None:
        self._genes, self._seed, self._asked = genes, seed, 0

    def ask(self) -> Sequence[Value]:
        """Return the next draw."""
        from numpy.random import Generator, Philox

        draws = Generator(Philox(key=self._seed, counter=[0, 0, 0, self._asked])).random(len(self._genes))
        self._asked += 1
        return [gene.at(float(share)) for gene, share in zip(self._genes, draws, strict=True)]

    def tell(self, values: Sequence[Value], score: float) -> None:
        """Learn nothing."""
