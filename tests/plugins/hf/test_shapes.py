"""Roles from shapes, where names say nothing."""

from __future__ import annotations

from surgery.tensors import Role, TensorSpec
from surgery_hf.shapes import told_by_shapes

INSIDE, OUTSIDE = Role(layer=0, stack="trunk"), Role()


def told(roles=None, **shapes):
    """Return the roles that shapes tell of tensors `NAME.weight`; they lie in layer 0 unless `roles` says else."""
    specs = {f"{name}.weight": TensorSpec(f"{name}.weight", shape, "F32") for name, shape in shapes.items()}
    given = {f"{name}.weight": (roles or {}).get(name, INSIDE) for name in shapes}
    found = told_by_shapes(given, specs)
    assert all((role.layer, role.stack) == (given[n].layer, given[n].stack) for n, role in found.items())
    return {name.removesuffix(".weight"): role.kind for name, role in found.items()}


def test_a_vector_called_weight_is_a_norm():
    assert told(a=(4,), b=(4, 4)) == {"a": "norm"}
    assert told({"a": OUTSIDE}, a=(4,)) == {}


def test_the_bias_beside_a_norm_is_one_too():
    specs = {name: TensorSpec(name, (4,), "F32") for name in ("a.weight", "a.bias", "scale")}
    found = told_by_shapes(dict.fromkeys(specs, INSIDE), specs)
    assert {name: role.kind for name, role in found.items()} == {"a.weight": "norm", "a.bias": "norm"}


def test_a_pair_of_matrices_leads_up_and_down():
    assert told(q=(4, 4), b=(16, 4), c=(4, 16)) == {"b": "mlp.up", "c": "mlp.down"}
    assert told(q=(4, 4), a=(16, 4), b=(16, 4), c=(4, 16)) == {"a": "mlp.up", "b": "mlp.up", "c": "mlp.down"}


def test_a_fused_query_key_and_value_is_not_taken_for_an_mlp():
    assert told(qkv=(12, 4), o=(4, 4)) == {}
    assert told(qkv=(12, 4), o=(4, 4), b=(16, 4), c=(4, 16)) == {}


def test_two_that_lead_down_are_left_alone():
    assert told(q=(4, 4), a=(16, 4), b=(4, 16), c=(4, 16)) == {}


def test_known_roles_stay():
    known = {"b": Role("attention.q", 0, stack="trunk"), "c": Role("attention.o", 0, stack="trunk")}
    assert told(known, q=(4, 4), b=(16, 4), c=(4, 16)) == {}


def test_what_is_shaped_like_the_only_embedding_is_the_head():
    outside = {"tok": Role("embed"), "out": OUTSIDE, "x": OUTSIDE}
    assert told(outside, tok=(50, 4), out=(50, 4), x=(4, 4)) == {"out": "head"}
    assert told(outside, tok=(50, 4), out=(50, 4), x=(50, 4)) == {}
    assert told(outside | {"h": Role("head")}, tok=(50, 4), out=(50, 4), h=(50, 4)) == {}
