"""What layout ops say becomes nodes: rows in any order, ops on parts, files, and what is refused."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError, PluginError
from surgery.layout import Call, Layout, Reading, Stack, Take
from surgery.ops import Need, NoParams, Params, Split, layout_op, op
from surgery.plan.calibration import calibrations_of
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


@op("toy.states", split=Split.TENSOR, models=1, needs=[Need.LAST])
def states(x, p):
    """The last states of all prompts."""
    return x.statistics[Need.LAST]


@pytest.fixture
def read(plan, memory, monkeypatch):
    """Returns the nodes of tensors that look at prompts, each (layer, prompts)."""
    tensors = {EMBED: (4, 2), **{f"model.layers.{i}.mlp.up_proj.weight": (2, 2) for i in (0, 1)}}
    source = memory(tensors)

    def make(**places):
        @layout_op("toy.lay")
        def lay(models, p):
            """Look at prompts."""
            pieces = {name: Call(states, [A], None, Reading("a", *place)) for name, place in places.items()}
            return Layout(pieces, {})

        monkeypatch.setitem(TOYS, "toy.lay", lay)
        made = plan("  m: {op: toy.lay, models: [a]}", a=source)
        return [tensor.node for tensor in made.outputs[0].tensors]

    return make


def test_calls_that_read_the_same_prompts_share_a_run(read):
    nodes = read(x=(0, ((1, 2),)), y=(1, ((1, 2),)), z=(1, ((1, 3),)))
    x, y, z = (node.calibration for node in nodes)
    assert x is y is not z
    assert (x.layers, z.layers) == ({"x": 0, "y": 1}, {"z": 1})
    assert calibrations_of(nodes) == [x, z]
    assert len(x.nodes) == 3


def test_other_prompts_or_layers_are_another_digest(read):
    places = [(0, ((1, 2),)), (1, ((1, 2),)), (0, ((1, 3),)), (0, ((1,), (2,)))]
    digests = [Digests().of(read(x=place)[0]) for place in places]
    assert len(set(digests)) == 4
    assert Digests().of(read(x=places[0])[0]) == digests[0]


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (Reading("c", 0, ((1,),)), "w: looks at `c`, which is none of the step's models; known: `a`, `b`"),
        (Reading("a", 0, ((1,),)), "w: looks before layer 0 of `a`, which has 0; count layers from 0"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(made, reading, text):
    assert refused(made, Call(states, [A], None, reading)) == text


@pytest.mark.parametrize("call", [Call(states, [A]), Call(whole, [A], None, Reading("a", 0, ((1,),)))])
def test_an_op_is_given_prompts_if_it_needs_them_and_only_then(made, call):
    with pytest.raises(PluginError, match=r"cannot be called by a layout op; see `surgery\.layout\.Call`$"):
        made(call)


def test_one_tensor_looks_before_one_layer(plan, memory, monkeypatch):
    @layout_op("toy.lay")
    def lay(models, p):
        """Look before two layers at once."""
        both = [Call(states, [A], None, Reading("a", layer, ((1,),))) for layer in (0, 1)]
        return Layout({"w": Stack(both)}, {})

    monkeypatch.setitem(TOYS, "toy.lay", lay)
    tensors = {EMBED: (4, 2), **{f"model.layers.{i}.mlp.up_proj.weight": (2, 2) for i in (0, 1)}}
    with pytest.raises(PluginError) as error:
        plan("  m: {op: toy.lay, models: [a]}", a=memory(tensors))
    assert str(error.value) == (
        "layout op `toy.lay`: w looks before layers 0 and 1; let a tensor look before one layer"
    )


def test_an_op_that_sees_the_whole_model_cannot_be_called(made):
    with pytest.raises(PluginError) as error:
        made(Call(LayerPeak, [A], Amount()))
    assert (
        str(error.value) == "op `toy.layer_peak`: cannot be called by a layout op; see `surgery.layout.Call`"
    )
