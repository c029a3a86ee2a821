"""Where companions stand, and which ops may have some."""

from __future__ import annotations

import pytest

from surgery.companion import Companion, arranged, flat
from surgery.errors import PluginError
from surgery.ops import Group, Params, op

ROWS = {"fisher": (1, None, 2), "gram": (None, None, 3), "none": (None,) * 3}
SAME = {"by": Companion(lambda signature, p: signature.first.shape)}


def test_what_is_there_is_told_row_by_row():
    assert flat(ROWS) == (1, 2, 3)
    assert flat({}) == ()


def test_values_come_back_to_their_places():
    made = arranged(ROWS, "abc")
    assert made == {"fisher": ("a", None, "b"), "gram": (None, None, "c"), "none": (None, None, None)}
    assert arranged(ROWS, flat(ROWS)) == ROWS


class Named(Params):
    """Parameters of each model."""

    by: str


def declare(each, target, **more):
    with pytest.raises(PluginError) as error:
        op("near.x", each=each, companions=SAME, **more)(target)
    return str(error.value)


def function(x, p):
    """Do nothing."""


class Grouped(Group):
    """Do nothing."""

    def key(self, tensor, params):
        """Return nothing."""

    def apply(self, members, params):
        """Return nothing."""
        return {}


def test_a_recipe_must_be_able_to_name_them():
    for each in (None, Params):
        assert declare(each, function) == (
            "op `near.x`: companion `by` is no parameter of `each`, where a recipe names what holds it; "
            "declare `by: str`"
        )


def test_ops_on_groups_have_none():
    assert declare(Named, Grouped) == (
        "op `near.x`: an op on groups or layouts has no companions; leave them out"
    )
