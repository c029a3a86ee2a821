"""evolve.cmaes: surgery_evolve.cmaes."""

from __future__ import annotations

import pytest

from surgery.trials import Gene
from surgery_evolve.cmaes import Cmaes, CmaesSampler
from tests.plugins.evolve.test_family import run


def test_eight_numbers_are_found_to_a_millionth_in_two_thousand_trials():
    genes = tuple(Gene(str(i)) for i in range(8))
    target = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]

    def sphere(values):
        return sum((value - wanted) ** 2 for value, wanted in zip(values, target, strict=True))

    proposed = run("evolve.cmaes", genes, count=2000, score=sphere)
    assert min(map(sphere, proposed)) < 1e-6


def test_eight_genes_have_a_population_of_ten():
    sampler = CmaesSampler.make([Gene(str(i)) for i in range(8)], Cmaes(), 0)
    assert sampler._strategy.population_size == 10


def test_it_begins_around_the_middle_with_a_sixth_of_the_range():
    first = run(
        "evolve.cmaes", (Gene("a", 0, 6), Gene("b", 0, 6)), count=200, score=lambda _: 0.0, population=200
    )
    values = [value for pair in first for value in pair]
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    assert mean == pytest.approx(3, abs=0.15)
    assert spread == pytest.approx(1, abs=0.1)


def test_a_corner_is_reached():
    proposed = run("evolve.cmaes", (Gene("a"), Gene("b")), count=200, score=lambda v: -v[0] - v[1])
    assert max(a + b for a, b in proposed) > 1.99


def test_after_converging_it_begins_again_with_twice_the_population():
    sampler = CmaesSampler.make([Gene("a"), Gene("b")], Cmaes(population=4), 0)
    for _ in range(1000):
        values = sampler.ask()
        sampler.tell(values, (values[0] - 0.3) ** 2 + (values[1] - 0.6) ** 2)
        if sampler._restarts:
            break
    assert sampler._restarts == 1
    assert sampler._strategy.population_size == 8
