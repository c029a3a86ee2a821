"""What layout ops say becomes nodes: rows in any order, ops on parts, files, and what is refused."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError, PluginError
from surgery.layout import Call, Layout, Stack, Take
from surgery.ops import NoParams, Params, layout_op, op
from surgery.plan.nodes import Apply, Digests, Rows, Source, Stacked
from surgery.tensors import TensorSpec
from tests.plan.conftest import TOYS, Amount, LayerPeak, scale, whole

EMBED = "model.embed_tokens.weight"
A, B = Take("a", EMBED), Take("b", EMBED)


@pytest.fixture
def made(plan, memory, monkeypatch):
    """Returns the node and spec of `w`, made of a piece; models a and b have embeddings of 4 and 3 rows."""

    def make(piece, *, b=(3, 2), dtype="float32", base="", **layout):
        @layout_op("toy.lay", base="optional")
        def lay(models, p):
            """Lay out one tensor."""
            make.views = models
            return Layout({"w": piece}, {}, **layout)

        monkeypatch.setitem(TOYS, "toy.lay", lay)
        sources = {"a": memory({EMBED: (4, 2)}), "b": memory({EMBED: b}, dtype)}
        output = plan(f"  m: {{op: toy.lay, {base}models: [a, b]}}", **sources).outputs[0]
        make.output = output
        (tensor,) = output.tensors
        return tensor.node, tensor.spec

    return make


def refused(made, piece, **settings):
    with pytest.raises(PlanError) as error:
        made(piece, **settings)
    return str(error.value).partition("steps.m: ")[2]


def test_rows_of_several_tensors_in_any_order(made):
    node, spec = made(Stack([A, B], [6, 0, 1, 4]))
    assert spec == TensorSpec("w", (4, 2), "F32")
    assert isinstance(node, Stacked)
    assert list(node.stretches.elements(2, 0, 8)) == [(1, 4, 2), (0, 0, 4), (1, 0, 2)]


def test_all_rows_in_order_are_the_tensor_itself(made):
    node, spec = made(Stack([A], range(4)))
    assert isinstance(node, Source)
    assert spec == TensorSpec("w", (4, 2), "F32")


def test_one_stretch_is_rows_of_a_tensor_whatever_else_is_stacked(made):
    node, spec = made(Stack([A, B], [1, 2]), dtype="float64")
    assert isinstance(node, Rows)
    assert (node.start, spec.shape, spec.dtype) == (2, (2, 2), "F32")


def test_several_dtypes_are_stacked_in_one_that_holds_all(made):
    assert made(Stack([A, B]), dtype="float16")[1].dtype == "F32"
    assert made(Stack([A, B]), dtype="float64")[1].dtype == "F64"


def test_an_op_is_called_on_parts(made):
    node, spec = made(Call(scale, [Stack([A], [0, 0, 3])], Amount(amount=2.0)))
    assert isinstance(node, Apply)
    assert (node.op.name, node.step, spec.shape) == ("toy.scale", "m", (3, 2))
    assert isinstance(node.models[0], Stacked)


def test_a_part_that_is_used_twice_is_one_node(made):
    call = Call(whole, [A], NoParams())
    node, _ = made(Stack([call, B, call], [0, 4, 7]))
    assert node.nodes[0] is node.nodes[2]


def test_another_order_of_rows_is_another_digest(made):
    nodes = [made(Stack([A, B], index))[0] for index in ([0, 4], [4, 0])]
    assert len({Digests().of(node) for node in nodes}) == 2


def test_the_base_comes_first(made):
    made(A, base="base: b, ")
    assert list(made.views) == ["b", "a"]


def test_files_stand_in_the_place_of_the_donors(made, tmp_path):
    made(A, files={"tokenizer.json": b"{}", "x.model": tmp_path})
    assert made.output.sidecars == {"tokenizer.json": b"{}", "x.model": tmp_path}


@pytest.mark.parametrize(
    ("piece", "settings", "text"),
    [
        (Stack([A, B], [7]), {}, "w: takes row 7 of 7; give rows inside the parts"),
        (
            Stack([A, B]),
            {"b": (3, 5)},
            "w: stacks (4, 2) and (3, 5); stack parts whose rows have one shape",
        ),
        (
            Stack([A, B]),
            {"dtype": "int32"},
            "w: takes rows of a tensor of I32; do it before that, or dequantize the model",
        ),
        (Stack([]), {}, "w: stacks nothing; stack parts whose rows have one shape"),
        (
            Call(TOYS["toy.toward"], [A, B], Amount()),
            {},
            "w: `toy.toward` is called on (4, 2) and (3, 2); give it parts of one shape",
        ),
        (
            A,
            {"donor": "c"},
            "`toy.lay` names `c` as donor, which is none of its models",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(made, piece, settings, text):
    assert refused(made, piece, **settings) == text


def test_an_op_refuses_what_it_is_called_on(made):
    @op("toy.picky", models=1, check=lambda signature, p: "is not to its liking; change it")
    def picky(x, p):
        """Refuse all."""

    assert refused(made, Call(picky, [A], Params())) == "w: is not to its liking; change it"


def test_an_op_that_sees_the_whole_model_cannot_be_called(made):
    with pytest.raises(PluginError) as error:
        made(Call(LayerPeak, [A], Amount()))
    assert (
        str(error.value) == "op `toy.layer_peak`: cannot be called by a layout op; see `surgery.layout.Call`"
    )
