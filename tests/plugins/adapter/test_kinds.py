from __future__ import annotations

import pytest
from pydantic import ValidationError

from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery_adapter._kinds import Extract, Kind, kind_of, rank_of

ROLES = {
    "m.layers.0.q.weight": ((8, 6), Role("attention.q", 0)),
    "m.layers.0.q.bias": ((8,), Role("attention.q", 0)),
    "m.layers.0.norm.weight": ((6,), Role("norm.input", 0)),
    "m.layers.0.norm.bias": ((6,), Role("norm.input", 0)),
    "m.embed.weight": ((20, 6), Role("embed")),
    "head.weight": ((20, 6), Role("head")),
    "head.bias": ((20,), Role("head")),
    "m.layers.0.conv.weight": ((4, 3, 2, 2), Role("other", 0)),
}


def signature(name: str) -> Signature:
    shape, role = ROLES[name]
    spec = TensorSpec(name, shape, "BF16")
    return Signature(name, (spec,), spec, (), role, spec.numel)


def kinds(**said: object) -> list[str]:
    p = Extract.model_validate(said)
    return [kind_of(signature(name), p).value for name in ROLES]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "linear nothing nothing nothing nothing nothing nothing nothing"),
        ({"save": "rest"}, "linear bias whole whole whole whole whole whole"),
        ({"targets": "all"}, "linear nothing nothing nothing embedding linear nothing nothing"),
        ({"targets": "all", "save": "rest"}, "linear bias whole whole embedding linear bias whole"),
        (
            {"targets": "all", "save": "rest", "fan_in_fan_out": True},
            "linear bias whole whole embedding whole whole whole",
        ),
    ],
)
def test_names_roles_and_shapes_decide_what_is_factored_and_what_is_saved(said, expected):
    assert kinds(**said) == expected.split()


def test_a_tensor_without_elements_has_no_factors():
    spec = TensorSpec("m.layers.0.q.weight", (0, 6), "F32")
    empty = Signature(spec.name, (spec,), spec, (), Role("attention.q", 0), 0)
    assert kind_of(empty, Extract()) is Kind.NOTHING


@pytest.mark.parametrize(
    ("said", "rank"),
    [({}, 6), ({"rank": 2}, 2), ({"rank": 100}, 6), ({"ratio": 1.0}, 3), ({"ratio": 0.01}, 1)],
)
def test_the_rank_is_said_or_follows_from_a_share_and_never_exceeds_the_matrix(said, rank):
    assert rank_of(signature("m.layers.0.q.weight"), Extract(**said)) == rank


def test_one_way_to_say_the_rank_is_enough():
    with pytest.raises(ValidationError, match="takes one of `rank` and `ratio`, got both; leave one out"):
        Extract(rank=1, ratio=0.5)
    with pytest.raises(ValidationError):
        Extract(rank=0)
