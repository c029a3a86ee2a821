"""evolve.cmaes: covariance matrix adaptation, for tens of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from surgery import Gene, Params, Sampler, sampler
from surgery.trials import Value
from surgery_evolve._packages import needed

_SEEDS: Final = 1 << 32  # the package draws with numpy's RandomState, which takes 32 bits


class Cmaes(Params):
    """Parameters of evolve.cmaes."""

    population: Annotated[int, Field(ge=2)] | None = None
    """Candidates of a generation; by default 4 + ⌊3 ln n⌋ for n genes."""
    sigma: Annotated[float, Field(gt=0, le=1)] = 1 / 6
    """The first steps' standard deviation, as a share of each range."""


@sampler(
    "evolve.cmaes",
    params=Cmaes,
    cite="Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; "
    "Auger and Hansen 2005, A Restart CMA Evolution Strategy With Increasing Population Size (restarts)",
)
class CmaesSampler(Sampler):
    """Adapt a normal distribution to where good candidates lie.

    It begins in the middle of the ranges. Choices count as ordered, in the order written. When it has converged it
    begins again elsewhere with twice the population. Computed in float64 by the package `cmaes`.
    """

    def __init__(self, genes: Sequence[Gene], params: Cmaes, seed: int) -> None:
        self._genes, self._params, self._seed = genes, params, seed
        self._restarts = 0
        self._told: list[tuple[Any, float]] = []
        self._asked: Any = None
        self._strategy = self._begun(params.population)

    def _begun(self, population: int | None) -> Any:
        """Return a strategy that knows nothing yet: the first in the middle, the others anywhere."""
        import numpy as np

        package = needed("cmaes", "evolve.cmaes")
        count = len(self._genes)
        seed = (self._seed + self._restarts) % _SEEDS
        centre = np.full(count, 0.5)
        if self._restarts:
            centre = np.random.default_rng([self._seed, self._restarts]).random(count)
        bounds = np.tile([0.0, 1.0], (count, 1))
        return package.CMA(centre, self._params.sigma, bounds, seed=seed, population_size=population)

    def ask(self) -> Sequence[Value]:
        """Return a draw from the distribution."""
        self._asked = self._strategy.ask()
        return [gene.at(float(share)) for gene, share in zip(self._genes, self._asked, strict=True)]

    def tell(self, values: Sequence[Value], score: float) -> None:
        """Note a score; a full generation moves the distribution."""
        self._told.append((self._asked, score))
        if len(self._told) < self._strategy.population_size:
            return
        self._strategy.tell(self._told)
        self._told = []
        if self._strategy.should_stop():
            self._restarts += 1
            self._strategy = self._begun(2 * self._strategy.population_size)
