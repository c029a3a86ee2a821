"""What the family registers, and that planning with it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import surgery_adapter


def test_the_hook_returns_every_op():
    names = [op.name for op in surgery_adapter.surgery_register_ops()]
    assert names == ["adapter.extract"]


def test_every_parameter_is_described():
    for op in surgery_adapter.surgery_register_ops():
        assert op.summary.endswith("."), op.name
        assert all(field.description for field in op.params.model_fields.values()), op.name


def test_planning_with_the_family_imports_no_torch():
    code = """
import sys
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
import surgery_adapter
spec = TensorSpec("m.w.weight", (4, 4), "BF16")
signature = Signature("m.w.weight", (spec,), spec, (), Role("mlp.up", 0), 16)
for op in surgery_adapter.surgery_register_ops():
    params = op.params(rank=1)
    op.split_of(params), op.emits(signature, params)
    op.workspace(signature, params), op.check(signature, params), op.simplify and op.simplify(signature, params)

print("torch" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
