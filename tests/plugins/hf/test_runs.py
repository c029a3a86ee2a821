"""Which numbered names are stacks of layers."""

from __future__ import annotations

import pytest

from surgery.tensors import TensorSpec
from surgery_hf.runs import Member, member, stacks_in

FOUR = ("a.weight", "a.bias", "b.weight", "b.bias")


def specs(*names, numel=1):
    return {name: TensorSpec(name, (numel,), "F32") for name in names}


def found(*names, share=0.0, **others):
    all_specs = specs(*names) | specs(*others, numel=90)
    return {place.path for place in stacks_in(names, all_specs, share).values()}


def run(path, indices, rests=FOUR):
    return [f"{path}.{index}.{rest}" for index in indices for rest in rests]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("down_blocks.1.resnets.0.conv1.weight", Member("down_blocks", 1, "resnets.0.conv1.weight")),
        ("a.b.7.c", Member("a.b", 7, "c")),
        ("a.b.7", None),
        ("7.a", None),
        ("layer1.weight", None),
    ],
)
def test_the_outermost_number_of_a_name_counts(name, place):
    assert member(name) == place


def test_two_members_of_four_tensors_are_a_stack():
    assert found(*run("trunk", range(2))) == {"trunk"}


def test_one_member_is_a_stack_if_its_path_says_so():
    assert found(*run("encoder.albert_layer_groups", range(1))) == {"encoder.albert_layer_groups"}
    assert found(*run("trunk", range(1))) == set()


def test_numbers_with_gaps_or_without_zero_are_no_stack():
    assert found(*run("mlp", (0, 2))) == set()
    assert found(*run("mlp", (1, 2))) == set()


def test_a_sequence_of_single_matrices_is_no_stack():
    assert found(*run("mlp", range(3), FOUR[:2])) == set()


def test_several_stacks_are_kept_apart():
    assert found(*run("down_blocks", range(2)), *run("up_blocks", range(3))) == {"down_blocks", "up_blocks"}


def test_a_small_run_is_left_out_where_a_share_is_asked_for():
    assert found(*run("trunk", range(2)), share=0.05, rest=1) == {"trunk"}
    assert found(*run("trunk", range(2)), share=0.1, rest=1) == set()
