"""evolve.greedy: models or parts are taken in one after another, best first, as long as that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from surgery import Gene, Params, Sampler, sampler
from surgery.errors import SurgeryError
from surgery.trials import Value


class Greedy(Params):
    """Parameters of evolve.greedy."""

    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How much worse the score may become when something is taken in, in units of the score."""


@sampler(
    "evolve.greedy",
    params=Greedy,
    cite="Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy "
    "without increasing inference time, ICML, arXiv:2203.05482 (recipe 1)",
)
class GreedySampler(Sampler):
    """Take in what helps: each hole alone first, then one after another, in the order of these scores.

    Holes are choices of two: left out, and taken in. The best hole stays taken in; each of the others, the better
    ones first, is taken in beside what is already there, and stays unless the score becomes worse by more than
    `tolerance`. After 2n - 1 candidates for n holes there is nothing left to propose. It draws no numbers.
    """

    def __init__(self, genes: Sequence[Gene], params: Greedy, seed: int) -> None:
        unfit = [gene.name for gene in genes if len(gene.choices) != 2]
        if unfit:
            raise SurgeryError(
                f"evolve.greedy: leaves out or takes in, {' and '.join(f'`{name}`' for name in unfit)} "
                f"{'is' if len(unfit) == 1 else 'are'} no choice of two; "
                "write `${search: {choices: [0, 1]}}`"
            )
        self._genes, self._tolerance = genes, params.tolerance
        self._alone: list[float] = []  # scores of each hole by itself
        self._taken: frozenset[int] = frozenset()
        self._score = 0.0  # of what is taken in
        self._left: list[int] = []  # holes to try, the next one last
        self._tried = frozenset({0})

    def ask(self) -> Sequence[Value] | None:
        """Return the next hole alone, then the next beside those that are taken in; None behind the last."""
        if len(self._alone) < len(self._genes):
            self._tried = frozenset({len(self._alone)})
        elif self._left:
            self._tried = self._taken | {self._left.pop()}
        else:
            return None
        return [gene.choices[i in self._tried] for i, gene in enumerate(self._genes)]

    def tell(self, values: Sequence[Value], score: float) -> None:
        """Keep what was taken in, unless it made the score worse."""
        if len(self._alone) == len(self._genes):
            if score <= self._score + self._tolerance:
                self._taken, self._score = self._tried, score
            return
        self._alone.append(score)
        if len(self._alone) == len(self._genes):
            best, *others = sorted(range(len(self._genes)), key=lambda i: (self._alone[i], i))
            self._taken, self._score, self._left = frozenset({best}), self._alone[best], others[::-1]
