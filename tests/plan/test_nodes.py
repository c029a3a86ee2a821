"""Digests: equal exactly when the bytes must be."""

from __future__ import annotations

from surgery.plan.nodes import Digests, sources, walk

UP1 = "model.layers.1.mlp.up_proj.weight"


def digests(plan):
    known = Digests()
    return {tensor.spec.name: known.of(tensor.node) for tensor in plan.outputs[0].tensors}


def shared(plan, memory):
    from tests.plan.conftest import LAYERS

    sources = {name: memory(LAYERS) for name in "abc"}
    return lambda steps, **extra: digests(plan(steps, **sources, **extra))


def test_the_same_recipe_has_the_same_digests(plan, memory):
    make = shared(plan, memory)
    steps = "  m: {op: toy.mix, models: {a: 1, b: {weight: [0, 1]}}}"
    assert make(steps) == make(steps)


def test_the_order_of_models_does_not_change_digests(plan, memory):
    make = shared(plan, memory)
    assert make("  m: {op: toy.mix, models: {a: 1, b: 2}}") == make(
        "  m: {op: toy.mix, models: {b: 2, a: 1}}"
    )


def test_only_tensors_whose_numbers_change_get_new_digests(plan, memory):
    make = shared(plan, memory)
    before = make("  m: {op: toy.mix, models: {a: {weight: {mlp: 1, default: 1}}, b: 1}}")
    after = make('  m: {op: toy.mix, models: {a: {weight: {"layers[1].mlp": 2, default: 1}}, b: 1}}')
    assert {name for name in before if before[name] != after[name]} == {UP1}


def test_another_source_another_seed_another_op_give_new_digests(plan, memory):
    make = shared(plan, memory)
    made = [
        make("  m: {op: toy.mix, models: [a, b]}"),
        make("  m: {op: toy.mix, models: [a, c]}"),
        make("  m: {op: toy.mix, models: [a, b]}", extra="seed: 1"),
        make("  m: {op: toy.toward, base: a, models: [b]}"),
        make("  m: {op: toy.toward, base: b, models: [a]}"),
    ]
    assert len({each[UP1] for each in made}) == len(made)


def test_names_only_change_digests_when_they_change_the_order_of_a_sum(plan, memory):
    make = shared(plan, memory)
    one = make("  s: {op: toy.scale, model: a}\n  m: {op: toy.mix, models: [s, b]}")
    two = make("  r: {op: toy.scale, model: a}\n  m: {op: toy.mix, models: [b, r]}")
    assert one == two
    before_b = make("  a2: {op: toy.scale, model: a}\n  m: {op: toy.mix, models: [a2, b]}")
    assert before_b[UP1] != one[UP1]


def test_inputs_come_before_what_reads_them_and_only_once(plan):
    made = plan("  s: {op: toy.scale, model: a}\n  m: {op: toy.mix, models: [s, a]}")
    root = {t.spec.name: t.node for t in made.outputs[0].tensors}[UP1]
    order = list(walk(root))
    assert order[-1] is root
    assert len(order) == len({id(node) for node in order}) == 3
    assert len(sources(root)) == 1
