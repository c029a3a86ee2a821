from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.execute.needs import Fold
from surgery.ops import Reduce


class Joined(Reduce):
    """Joins text: any other order would show."""

    def gather(self, x, p, found):
        raise NotImplementedError

    def apply(self, x, p, found):
        raise NotImplementedError


class Listed(Joined):
    """Changes its total in place, as ops may."""

    def fold(self, total, part):
        total.extend(part)
        return total


@given(st.permutations(range(8)))
def test_parts_are_folded_in_order_whoever_comes_first(order):
    fold = Fold(Joined())
    for index in order:
        fold.add(index, str(index))
    assert fold.total == "01234567"


def test_a_total_is_there_as_far_as_parts_have_come():
    fold = Fold(Joined())
    assert fold.total is None
    fold.add(1, "b")
    assert fold.total is None
    fold.add(0, "a")
    assert fold.total == "ab"


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_that_add_at_once_lose_nothing(threads):
    fold = Fold(Listed())
    indices = list(range(200))
    random.Random(0).shuffle(indices)
    shares = [indices[start::threads] for start in range(threads)]

    def add(share: list[int]) -> None:
        for index in share:
            fold.add(index, [index])

    workers = [threading.Thread(target=add, args=(share,)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert fold.total == list(range(200))


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.randoms())
def test_sums_of_floats_do_not_depend_on_who_comes_first(parts, shuffle):
    expected = parts[0]
    for part in parts[1:]:
        expected += part
    fold = Fold(Joined())
    order = list(enumerate(parts))
    shuffle.shuffle(order)
    for index, part in order:
        fold.add(index, part)
    assert fold.total == expected
