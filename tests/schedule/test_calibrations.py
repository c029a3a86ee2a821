"""What a calibration takes, by numbers that can be checked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from surgery.ops import Need
from surgery.schedule.calibrations import LIBRARY, cost_of
from surgery.tensors import Role, TensorSpec

ROLES = {
    "embed": (Role("embed"), (100, 8)),
    "0.up": (Role("mlp.up", 0), (20, 8)),
    "0.down": (Role("mlp.down", 0), (8, 20)),
    "1.up": (Role("mlp.up", 1), (20, 8)),
    "1.down": (Role("mlp.down", 1), (8, 20)),
    "1.bias": (Role("mlp.down", 1), (8,)),
    "norm": (Role("norm.final"), (8,)),
    "head": (Role("head"), (100, 8)),
}


class Stored(SimpleNamespace):
    """A tensor in a file, as far as its cost is concerned."""


def calibration(monkeypatch, members, roles=ROLES, needs=(), **config):
    monkeypatch.setattr("surgery.schedule.calibrations.make_jobs", lambda outputs, chunk: [])
    nodes = {name: Stored(spec=TensorSpec(name, shape, "BF16")) for name, (_, shape) in roles.items()}
    return SimpleNamespace(
        step="x",
        settings=SimpleNamespace(samples=5, length=16),
        config=config,
        nodes=nodes,
        roles={name: role for name, (role, _) in roles.items()},
        needs=needs,
        members={
            n: SimpleNamespace(signature=SimpleNamespace(first=nodes[n].spec), spec=nodes[n].spec)
            for n in members
        },
    )


def test_the_largest_part_is_held_in_float32(monkeypatch):
    cost = cost_of(calibration(monkeypatch, ["0.up"], hidden_size=8))
    assert cost.weights == 4 * 800  # embeddings; norm and head are not needed
    small = {name: (role, (10, 8) if name == "embed" else shape) for name, (role, shape) in ROLES.items()}
    assert cost_of(calibration(monkeypatch, ["0.up"], small, hidden_size=8)).weights == 4 * (160 + 160 + 8)


def test_a_head_that_is_changed_is_held_with_embeddings_and_norm(monkeypatch):
    assert cost_of(calibration(monkeypatch, ["head"], hidden_size=8)).weights == 4 * (800 + 8 + 800)


def test_activations_statistics_and_files(monkeypatch):
    cost = cost_of(calibration(monkeypatch, ["0.up", "1.down"], hidden_size=8))
    assert cost.sample == 16 * 4 * (6 * 8 + 3 * 20)
    assert cost.statistics == 8 * (8 + 1 + 20 + 1)
    assert cost.disk == 2 * 5 * 16 * 8 * 4
    assert cost.least == LIBRARY + cost.weights + cost.statistics + cost.sample
    assert cost.at_once(3) - cost.least == 2 * cost.sample


def test_gram_matrices_are_held_for_a_part_and_each_sample_and_kept_on_disk(monkeypatch):
    members = ["0.up", "0.down", "1.up"]
    plain = cost_of(calibration(monkeypatch, members, hidden_size=8))
    cost = cost_of(calibration(monkeypatch, members, needs=(Need.GRAM,), hidden_size=8))
    block, widest, all_of_them = 8 * (64 + 400), 8 * 400, 8 * (64 + 400 + 64)
    assert cost.sample - plain.sample == block + widest
    assert cost.statistics - plain.statistics == 2 * block
    assert cost.disk - plain.disk == all_of_them


@pytest.mark.parametrize("config", [{}, {"n_embd": 8}, {"text_config": {"hidden_size": 8}}])
def test_the_hidden_size_is_found_in_any_config(monkeypatch, config):
    assert cost_of(calibration(monkeypatch, ["0.up"], **config)).disk == 2 * 5 * 16 * 8 * 4


def test_depth_changes_nothing_but_the_statistics(monkeypatch):
    deep = ROLES | {f"{i}.up": (Role("mlp.up", i), (20, 8)) for i in range(2, 50)}
    a, b = (cost_of(calibration(monkeypatch, ["0.up"], roles, hidden_size=8)) for roles in (ROLES, deep))
    assert a == b


def test_fused_experts_count_twice(monkeypatch):
    experts = {f"0.experts.{i}": (Role("experts.up", 0, expert=i), (20, 8)) for i in range(10)}
    cost = cost_of(calibration(monkeypatch, ["0.up"], {**ROLES, **experts}, hidden_size=8))
    assert cost.weights == 4 * (160 + 160 + 2 * 10 * 160)
