"""What stands beside models, from headers: found by name, held to its shape, missed aloud."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.companion import Companion
from surgery.errors import PlanError, PluginError
from surgery.ops import Params, Space, Split, op
from surgery.plan.nodes import sources, walk, weights_of
from tests.plan.conftest import LAYERS

UP0, UP1 = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"


class Each(Params):
    """Parameters of each model."""

    by: str | None = None


def square(signature, p):
    return (signature.first.shape[-1],) * 2 if len(signature.first.shape) == 2 else None


def declared(name, shape, **more):
    def function(x, p):
        """Do nothing."""

    without = more.pop("without", "averaged")
    return op(name, each=Each, companions={"by": Companion(shape, without)}, **more)(function)


OPS = {
    o.name: o
    for o in (
        declared("near.same", lambda signature, p: signature.first.shape),
        declared("near.strict", lambda signature, p: signature.first.shape, without=""),
        declared("near.square", square, split=Split.TENSOR),
        declared("near.wrong", square, split=Split.ROW),
        declared("near.delta", lambda signature, p: signature.first.shape, models=1, gives=Space.DELTA),
    )
}


@pytest.fixture
def near(plan, host, monkeypatch):
    known = host.op
    monkeypatch.setattr(host, "op", lambda name: OPS.get(name) or known(name))
    return plan


def nodes(plan):
    return {tensor.spec.name: tensor.node for tensor in plan.outputs[0].tensors}


def refusal(call):
    with pytest.raises(PlanError) as error:
        call()
    return str(error.value).splitlines()


def test_specs_and_nodes_stand_beside_each_model_by_the_tensors_name(near, memory):
    made = nodes(near("  m: {op: near.same, models: {b: {by: f}, a: {by: c}}}", f=memory(LAYERS, np.float64)))
    node = made[UP0]
    assert [spec.dtype for spec in node.signature.companions["by"]] == ["F32", "F64"]
    assert [source.spec.name for source in node.beside] == [UP0, UP0]
    assert sources(node) == [*node.models, *node.beside]
    assert node.spec.dtype == "F32"  # what stands beside a model decides nothing of the result


def test_weights_are_what_a_result_descends_from(near):
    node = nodes(near("  m: {op: near.same, models: {a: {by: b}, c: {}}}"))[UP0]
    assert list(walk(node, below=weights_of)) == [*node.models, node]


def test_another_shape_is_asked_for_tensor_by_tensor(near, memory):
    grams = memory({UP0: (4, 4), UP1: (4, 4), "model.embed_tokens.weight": (4, 4), "lm_head.weight": (4, 4)})
    made = near("  m: {op: near.square, models: {a: {by: g}, b: {by: g}}}", g=grams)
    assert nodes(made)[UP0].signature.companions["by"][1].shape == (4, 4)
    assert nodes(made)["model.norm.weight"].signature.companions == {"by": (None, None)}
    assert not any("by" in str(warning) for warning in made.warnings)


def test_tensors_without_are_told_in_the_ops_words(near, memory):
    some = {name: shape for name, shape in LAYERS.items() if "layers" in name}
    made = near("  m: {op: near.same, models: {a: {by: f}, b: {by: c}}}", f=memory(some))
    assert [str(warning) for warning in made.warnings] == [
        "<recipe>:4:6: steps.m: 3 of 5 tensors have no `by` in every model, "
        "model.embed_tokens.weight is missing in `f`: they are averaged"
    ]
    assert nodes(made)["lm_head.weight"].signature.companions["by"][0] is None


def test_an_op_that_cannot_do_without_refuses(near, memory):
    some = {name: shape for name, shape in LAYERS.items() if "layers" in name}
    assert refusal(lambda: near("  m: {op: near.strict, models: {a: {by: f}}}", f=memory(some))) == [
        "<recipe>:4:6: steps.m: 3 of 5 tensors have no `by` in every model, "
        "model.embed_tokens.weight is missing in `f`; add them, or leave the tensors out with `where:`"
    ]


def test_a_model_that_names_none_is_no_matter(near):
    made = near("  m: {op: near.same, models: {a: {by: b}, c: {}}}")
    assert made.warnings == ()
    assert nodes(made)[UP0].signature.companions["by"][1] is None


def test_a_holder_of_nothing_is_refused(near, memory):
    assert refusal(
        lambda: near("  m: {op: near.same, models: {a: {by: f}, b: {by: c}}}", f=memory({"x": (2,)}))
    ) == [
        "<recipe>:4:39: steps.m.models.a.by: `f` has none of the 5 tensors of `a` that need one; "
        "name its tensors like the model's: model.embed_tokens.weight"
    ]


def test_wrong_shapes_are_counted(near, memory):
    wide = {name: (*shape[:-1], 9) for name, shape in LAYERS.items()}
    assert refusal(lambda: near("  m: {op: near.same, models: {a: {by: f}}}", f=memory(wide))) == [
        "<recipe>:4:39: steps.m.models.a.by: model.embed_tokens.weight of `f` is (8, 9), the `by` of this tensor "
        "is (8, 4) (and 4 more such tensors); take that of a model of this shape"
    ]


def test_codes_are_no_statistics(near, memory):
    assert refusal(lambda: near("  m: {op: near.same, models: {a: {by: f}}}", f=memory(LAYERS, np.int8))) == [
        "<recipe>:4:39: steps.m.models.a.by: model.embed_tokens.weight of `f` is stored as I8, no arithmetic is "
        "defined on it (and 4 more such tensors); store it as float32"
    ]


def test_deltas_are_no_statistics(near):
    steps = "  d: {op: near.delta, models: {b: {}}}\n  m: {op: near.same, models: {a: {by: d}}}"
    assert refusal(lambda: near(steps)) == [
        "<recipe>:5:39: steps.m.models.a.by: `d` holds deltas, `by` takes statistics; "
        "name a checkpoint or a step that makes them"
    ]


def test_where_the_work_is_cut_the_shapes_must_be_equal(near, memory):
    with pytest.raises(PluginError) as error:
        near("  m: {op: near.wrong, models: {a: {by: f}}}", f=memory({UP0: (4, 4)}))
    assert str(error.value) == (
        "op `near.wrong`: companion `by` of a row op has the tensor's shape, got (4, 4) for (8, 4); "
        "declare split=Split.TENSOR"
    )


def test_the_plan_lists_them_among_what_a_step_reads(near):
    made = near("  m: {op: near.same, models: {a: {by: b}}}")
    assert list(made.graph().predecessors("m")) == ["a", "b"]
    assert sorted(made.checkpoints) == ["a", "b"]
