"""What `@op` and `@layout_op` take from a function or class, and what they refuse."""

from __future__ import annotations

import pytest

from surgery.errors import PluginError
from surgery.ops import Group, NoParams, Reduce, Scan, Signature, Split, layout_op, op
from surgery.tensors import Role, TensorSpec


class Sum(Reduce):
    """Adds."""

    def gather(self, x, p, found):
        return 1

    def apply(self, x, p, found):
        return x.models[0]


class Pair(Group):
    """Pairs."""

    def key(self, tensor, p):
        return None

    def apply(self, members, p):
        return {}


def same(x, p):
    """Return the input.

    As it is.
    """
    return x


def refused(declare) -> str:
    with pytest.raises(PluginError) as error:
        declare()
    return str(error.value)


def test_a_function_is_an_element_op_and_may_still_be_called():
    made = op("mine.same", models=1)(same)
    assert (made.split_of(NoParams()), made.splits) == (Split.ELEMENT, (Split.ELEMENT,))
    assert (made.models, made.takes_one, made.family) == ((1, 1), True, "mine")
    assert (made.summary, made.doc) == ("Return the input.", "Return the input.\n\nAs it is.")
    assert made.module == same.__module__
    assert made(3, None) == 3


@pytest.mark.parametrize(("target", "split"), [(Sum, Split.REDUCE), (Pair, Split.GROUP)])
def test_a_class_has_the_split_of_what_it_derives_from(target, split):
    made = op("mine.x")(target)
    assert made.splits == (split,)
    assert isinstance(made.implementation, target)


def test_a_parameter_may_decide_the_split():
    made = op("mine.x", split=lambda p: p, splits=(Split.REDUCE, Split.MODEL))(Sum)
    assert (made.split_of(Split.MODEL), made.splits) == (Split.MODEL, (Split.REDUCE, Split.MODEL))


def test_layout_ops_keep_the_order_of_their_models():
    made = layout_op("mine.x", models=2)(same)
    assert (made.splits, made.ordered) == ((Split.LAYOUT,), True)


def test_the_result_is_of_the_first_shape_and_the_dtype_that_holds_all():
    specs = TensorSpec("w", (2, 3), "BF16"), TensorSpec("w", (2, 3), "F32")
    signature = Signature("w", specs, None, (), Role("other"), 6)
    assert op("mine.x")(same).output(signature, NoParams()) == TensorSpec("w", (2, 3), "F32")


def test_one_gather_is_one_scan_of_everything():
    assert [Sum().scan(None, None, None, done) for done in (0, 1)] == [Scan.ALL, None]


@pytest.mark.parametrize("name", ["nodot", "a.b.c", "a-b.c", ".x"])
def test_names_are_of_two_parts(name):
    assert refused(lambda: op(name)) == f"op `{name}`: a name is `family.method`; rename it"


def test_a_class_of_another_kind_is_refused():
    assert refused(lambda: op("mine.x")(int)) == (
        "op `mine.x`: a class must derive from Reduce or Group, got int"
    )


def test_an_op_says_what_it_does():
    class Silent(Sum):
        pass

    told = "op `mine.x`: has no docstring; its first line says what it does"
    assert refused(lambda: op("mine.x")(Silent)) == told
    assert refused(lambda: op("mine.x")(lambda x, p: x)) == told


def test_a_class_that_need_not_gather_needs_a_call():
    declare = op("t.sum", split=lambda p: Split.REDUCE, splits=(Split.TENSOR, Split.ROW, Split.REDUCE))
    assert refused(lambda: declare(Sum)) == (
        "op `t.sum`: as row or tensor op it is called, not applied, got a class without `__call__`; "
        "define `__call__(self, x, params)`"
    )
