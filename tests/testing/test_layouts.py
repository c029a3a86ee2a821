"""Views of models made of specs, and what the layout runner refuses."""

from __future__ import annotations

import pytest

from surgery.architecture import Architecture
from surgery.errors import PlanError
from surgery.layout import Call, Layout, Stack, Take
from surgery.ops import NoParams, layout_op, op
from surgery.tensors import Role
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery.testing.tiny import EMBED, HEAD

NUMBERED = Architecture(
    "numbered",
    frozenset(),
    role_of=lambda name: Role("x", int(name.split(".")[2])) if "layers" in name else Role("norm.final"),
    rename_layer=lambda name, layer: name,
)


@op("t.double", models=1)
def double(x, p):
    """Double."""
    return x.models[0] * 2


def model(**settings):
    return view("a", tiny_specs(**settings), tiny_config(**settings), NUMBERED)


def taking(take):
    @layout_op("t.take")
    def take_it(models, p):
        """Take one tensor."""
        return Layout({"x": take}, {})

    return take_it


def test_a_view_knows_roles_depths_and_layers():
    seen = model(layers=3)
    assert seen.layers == 3
    assert seen.tensors["model.layers.1.mlp.up_proj.weight"].role == Role("x", 1)
    assert seen.tensors["model.layers.1.mlp.up_proj.weight"].depth == 0.5
    assert seen.tensors["model.norm.weight"].depth == 1.0


def test_a_view_without_layers_has_none():
    assert view("a", {}, {}, NUMBERED).layers == 0


def test_a_layout_comes_back_as_the_op_made_it():
    take = Take("a", "model.norm.weight", (0, 4))
    assert run_layout(taking(take), {}, [model()]).tensors == {"x": take}


def test_what_a_piece_is_made_of_comes_back_too():
    norm = Take("a", "model.norm.weight")
    piece = Stack([norm, Call(double, [norm], NoParams())], [0, 17])
    assert run_layout(taking(piece), {}, [model()]).tensors == {"x": piece}


def test_a_tied_head_may_be_taken():
    tied = Architecture("t", frozenset(), lambda name: Role(), lambda n, i: n, tied={HEAD: EMBED})
    seen = view("a", tiny_specs(tied=True), tiny_config(tied=True), tied, {"tokenizer.json": b"{}"})
    assert (seen.tied, seen.files) == ({HEAD: EMBED}, {"tokenizer.json": b"{}"})
    assert run_layout(taking(Take("a", HEAD)), {}, [seen]).tensors == {"x": Take("a", HEAD)}


@pytest.mark.parametrize(
    ("take", "text"),
    [
        (Stack([Take("a", "nothing")]), "x: takes nothing, which `a` does not have; mend the op"),
        (
            Call(double, [Take("a", "model.norm.weight", (4, 17))], NoParams()),
            "x: takes rows (4, 17) of (16,); mend the op",
        ),
        (Take("a", "nothing"), "x: takes nothing, which `a` does not have; mend the op"),
        (Take("b", "model.norm.weight"), "x: takes model.norm.weight, which `b` does not have; mend the op"),
        (Take("a", "model.norm.weight", (4, 17)), "x: takes rows (4, 17) of (16,); mend the op"),
        (Take("a", "model.norm.weight", (4, 4)), "x: takes rows (4, 4) of (16,); mend the op"),
    ],
)
def test_taking_what_is_not_there_is_refused(take, text):
    with pytest.raises(PlanError) as error:
        run_layout(taking(take), {}, [model()])
    assert str(error.value) == text


def test_other_ops_are_refused():
    @op("t.copy")
    def copy(x, p):
        """Copy."""
        return x.models[0]

    with pytest.raises(PlanError) as error:
        run_layout(copy, {}, [model()])
    assert str(error.value) == "`t.copy` is no layout op; run it with run_op"
