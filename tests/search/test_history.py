"""A search so far: who leads, and how the score fell."""

from __future__ import annotations

import pytest

from surgery.search.history import About, best, progress
from surgery.search.trial import Trial


def trials(*scores: float | None, kind: str = "trial") -> list[Trial]:
    return [Trial(i, kind, f"trial {i}", str(i), (), 0, score) for i, score in enumerate(scores)]


@pytest.mark.parametrize(("goal", "number"), [("minimize", 1), ("maximize", 3)])
def test_the_earliest_of_equals_leads_and_failures_do_not(goal, number):
    assert best(trials(None, 1.0, 1.0, 2.0, 2.0), goal).number == number


def test_nobody_leads_without_a_score():
    assert best(trials(None, None), "minimize") is None


@pytest.mark.parametrize(
    ("goal", "points"),
    [
        ("minimize", [(1, 3.0), (3, 3.0), (4, 1.0)]),
        ("maximize", [(1, 3.0), (3, 4.0), (4, 4.0)]),
    ],
)
def test_progress_is_the_best_score_after_each_trial(goal, points):
    baseline = trials(0.0, kind="baseline")
    assert progress([*baseline, *trials(3.0, None, 4.0, 1.0)], goal) == points


def test_what_it_is_about_survives_the_round_trip():
    about = About("maximize", "2 numbers", ("steps.a.t", "steps.b.t"), "evolve.cmaes", "eval.perplexity")
    assert About.of(about.record()) == about
    assert about.better(2.0, 1.0)
    assert not about.better(1.0, 1.0)
