"""evolve.random: surgery_evolve.random."""

from __future__ import annotations

import pytest

from surgery.trials import Gene
from tests.plugins.evolve.test_family import run


def test_draws_do_not_depend_on_scores_or_on_how_many_there_are():
    assert run("evolve.random", count=5) == run("evolve.random", count=9, score=lambda _: 0.0)[:5]


def test_draws_are_even():
    draws = [a for (a,) in run("evolve.random", (Gene("a", 2, 4),), count=2000)]
    assert sum(draws) / 2000 == pytest.approx(3, abs=0.04)
    assert sum(draw < 2.5 for draw in draws) / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_logarithmic_range_is_even_in_the_logarithm():
    draws = [a for (a,) in run("evolve.random", (Gene("a", 0.01, 100, log=True),), count=2000)]
    assert sum(draw < 1 for draw in draws) / 2000 == pytest.approx(0.5, abs=0.04)
