"""What the family registers, and that planning with it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import surgery_adapter


def test_the_hook_returns_every_op():
    names = [op.name for op in surgery_adapter.surgery_register_ops()]
    assert names == [
        f"adapter.{name}"
        for name in (
            "concat",
            "convert",
            "ema",
            "expand",
            "extract",
            "init",
            "lego",
            "merge",
            "rerank",
            "residual",
            "scale",
        )
    ]


def test_every_parameter_is_described():
    for op in surgery_adapter.surgery_register_ops():
        assert op.summary.endswith("."), op.name
        assert all(field.description for field in op.params.model_fields.values()), op.name


def test_planning_with_the_family_imports_no_torch():
    code = """
import sys
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
import surgery.ops, surgery_adapter
given = {"adapter.rerank": {"rank": 1}, "adapter.scale": {"factor": 2.0}, "adapter.ema": {"beta": 0.5}}
given |= {"adapter.residual": {"method": "svd"}}
for op in surgery_adapter.surgery_register_ops():
    if op.splits == (surgery.ops.Split.LAYOUT,):
        continue
    name = "m.w.weight" if op.takes.value == "weight" else "m.w.lora_A.weight"
    spec = TensorSpec(name, (4, 4), "BF16")
    each = (op.each(),) if op.each else ()
    signature = Signature(name, (spec,), spec if op.base == "required" else None, each, Role("mlp.up", 0), 16)
    params = op.params(**given.get(op.name, {}))
    op.split_of(params), op.emits and op.emits(signature, params), op.output(signature, params)
    op.workspace and op.workspace(signature, params)
    assert not op.check or op.check(signature, params) is None, op.name
    op.simplify and op.simplify(signature, params)

print("torch" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
