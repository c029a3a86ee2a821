"""evolve.greedy: surgery_evolve.greedy."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import SurgeryError
from surgery.trials import Gene
from surgery_evolve.greedy import Greedy, GreedySampler


def told(score, genes=None, count=3, **params):
    """Ask and tell until nothing is left; return what was proposed, in order, with its score."""
    genes = genes or [Gene(f"g{i}", choices=(0, 1)) for i in range(count)]
    sampler = GreedySampler.make(genes, Greedy(**params), 0)
    found = []
    while (values := sampler.ask()) is not None:
        found.append((tuple(values), score(tuple(values))))
        sampler.tell(values, found[-1][1])
    assert sampler.ask() is None
    return found


def mean_of(models, target):
    """How far the mean of the models that are taken in is from a target."""

    def score(taken):
        inside = [model for model, one in zip(models, taken, strict=True) if one]
        return abs(sum(inside) / len(inside) - target)

    return score


def test_three_models_are_tried_alone_then_added_best_first():
    # 0, 1 and 0.6 with 0.4 as the best: 0.6 (0.2), 0 (0.4), 1 (0.6); the mean 0.3 is better, 0.5333 is not
    found = told(mean_of([0.0, 1.0, 0.6], 0.4))
    assert [values for values, _ in found] == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)]
    assert [score for _, score in found] == pytest.approx([0.4, 0.6, 0.2, 0.1, 2 / 15])


def test_what_made_it_worse_is_left_out_again():
    # 0.6 comes first, 1.1 is refused, so that 0 is tried beside 0.6 alone
    found = told(mean_of([1.1, 0.0, 0.6], 0.5))
    assert [values for values, _ in found[3:]] == [(0, 1, 1), (1, 0, 1)]


def test_what_changes_nothing_is_taken_in():
    assert [values for values, _ in told(lambda _: 1.0)[3:]] == [(1, 1, 0), (1, 1, 1)]


def test_tolerance_takes_in_what_costs_little():
    costs = {(1, 0, 0): 0.0, (0, 1, 0): 1.0, (0, 0, 1): 2.0, (1, 1, 0): 0.5, (1, 1, 1): 1.5, (1, 0, 1): 9.0}
    assert told(costs.get)[-1][0] == (1, 0, 1)
    assert told(costs.get, tolerance=0.25)[-1][0] == (1, 0, 1)
    assert told(costs.get, tolerance=0.5)[-1][0] == (1, 1, 1)


def test_one_hole_is_one_candidate():
    assert told(lambda _: 7.0, count=1) == [((1,), 7.0)]


def test_the_first_of_two_choices_leaves_out_and_the_second_takes_in():
    genes = [
        Gene("a", choices=("none", "all")),
        Gene("b", choices=(True, False)),
        Gene("c", choices=(0, 0.25)),
    ]
    assert [values for values, _ in told(lambda _: 0.0, genes)] == [
        ("all", True, 0),
        ("none", False, 0),
        ("none", True, 0.25),
        ("all", False, 0),
        ("all", False, 0.25),
    ]


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=4, max_size=4))
def test_four_modular_items_end_at_what_brute_force_finds(costs):
    """A score that is a sum over what is taken in: then each item's own cost decides, in any order."""

    def score(taken):
        return sum(cost for cost, one in zip(costs, taken, strict=True) if one)

    found = told(score, count=4)
    assert min(score for _, score in found) == min(map(score, list(product((0, 1), repeat=4))[1:]))
    assert len(found) == len({values for values, _ in found}) == 7


@pytest.mark.parametrize(
    ("unfit", "names"),
    [
        ([Gene("w.a")], "`w.a` is"),
        ([Gene("w.a"), Gene("w.b", choices=(0, 1, 2))], "`w.a` and `w.b` are"),
    ],
)
def test_ranges_and_longer_choices_are_refused(unfit, names):
    with pytest.raises(SurgeryError) as error:
        GreedySampler.make([Gene("fine", choices=(0, 1)), *unfit], Greedy(), 0)
    assert str(error.value) == (
        f"evolve.greedy: leaves out or takes in, {names} no choice of two; "
        "write `${search: {choices: [0, 1]}}`"
    )
