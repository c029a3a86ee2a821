"""evolve.tpe: tree-structured Parzen estimators, for choices and few trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from surgery import Gene, Params, Sampler, sampler
from surgery.trials import Value
from surgery_evolve._packages import needed


class Tpe(Params):
    """Parameters of evolve.tpe."""

    startup: Annotated[int, Field(ge=1)] = 10
    """Trials drawn at random before anything is estimated."""
    candidates: Annotated[int, Field(ge=1)] = 24
    """Draws of which the most promising is proposed."""


@sampler(
    "evolve.tpe",
    params=Tpe,
    cite="Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization, NeurIPS; Akiba et al. 2019, "
    "Optuna: A Next-generation Hyperparameter Optimization Framework, arXiv:1907.10902",
)
class TpeSampler(Sampler):
    """Estimate where good and bad candidates lie, gene by gene, and propose where good ones are likelier.

    Choices are not ordered. Computed by Optuna, with its defaults but for the parameters here.
    """

    def __init__(self, genes: Sequence[Gene], params: Tpe, seed: int) -> None:
        optuna = needed("optuna", "evolve.tpe")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        tpe = optuna.samplers.TPESampler(
            seed=seed % (1 << 32), n_startup_trials=params.startup, n_ei_candidates=params.candidates
        )
        self._genes = genes
        self._study = optuna.create_study(sampler=tpe)
        self._space = {gene.name: _distribution(optuna, gene) for gene in genes}
        self._trial: Any = None

    def ask(self) -> Sequence[Value]:
        """Return the most promising of some draws."""
        self._trial = self._study.ask(self._space)
        found = self._trial.params
        return [found[g.name] if g.choices else g.rounded(found[g.name]) for g in self._genes]

    def tell(self, values: Sequence[Value], score: float) -> None:
        """Note a score."""
        self._study.tell(self._trial, score)


def _distribution(optuna: Any, gene: Gene) -> Any:
    if gene.choices:
        return optuna.distributions.CategoricalDistribution(gene.choices)
    return optuna.distributions.FloatDistribution(gene.low, gene.high, log=gene.log)
