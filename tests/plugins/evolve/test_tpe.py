"""evolve.tpe: surgery_evolve.tpe."""

from __future__ import annotations

from collections import Counter

from surgery.trials import Gene
from tests.plugins.evolve.test_family import run


def test_the_better_choice_is_proposed_more_often():
    proposed = run(
        "evolve.tpe", (Gene("c", choices=("good", "bad")),), count=60, score=lambda v: v[0] == "bad"
    )
    counts = Counter(choice for (choice,) in proposed[20:])
    assert counts["good"] > 3 * counts["bad"]


def test_the_first_trials_do_not_depend_on_scores():
    by_value = run("evolve.tpe", count=4, startup=4)
    assert run("evolve.tpe", count=4, startup=4, score=lambda values: -values[0]) == by_value
    assert run("evolve.tpe", count=8, startup=4, score=lambda values: -values[0]) != run(
        "evolve.tpe", count=8, startup=4
    )
