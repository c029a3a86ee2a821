"""What the family registers, and that planning with it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import surgery_delta


def test_the_hook_returns_every_op():
    names = [op.name for op in surgery_delta.surgery_register_ops()]
    codecs = ("basis", "bits", "kronecker", "lowrank_sparse", "quantize", "reflect", "sparse", "tucker")
    assert names == [f"delta.{codec}" for codec in codecs]


def test_every_parameter_is_described_and_every_method_cited():
    for op in surgery_delta.surgery_register_ops():
        assert op.summary.endswith("."), op.name
        assert "arXiv:" in op.cite
        assert all(field.description for field in op.params.model_fields.values()), op.name


def test_planning_with_the_family_imports_no_torch():
    code = """
import sys
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.ops import Made, Signature
from surgery.tensors import Role, TensorSpec
import surgery_delta
from surgery_delta._applied import DeltaCheckpoint
from surgery_delta._read import read_headers
spec = TensorSpec("m.w.weight", (4, 4), "BF16")
signature = Signature(spec.name, (spec,), spec, (), Role("mlp.up", 0), 16)
base = MemoryCheckpoint({})
base.tensors = {spec.name: spec}
for op in surgery_delta.surgery_register_ops():
    p = op.params()
    assert op.simplify(signature, p) is None
    assert op.check is None or op.check(signature, p) is None
    op.split_of(p), op.workspace and op.workspace(signature, p)
    op.describe(Made({}, "./base", {spec.name: signature}, {}), p)
    delta = MemoryCheckpoint({})
    delta.tensors = {part.spec.name: part.spec for part in op.emits(signature, p)}
    found = read_headers(delta, base, p)
    assert list(found.changes) == [spec.name], [*found.problems()]
    assert DeltaCheckpoint(base, delta, found.changes, found.whole, "base").tensors[spec.name].dtype == "F32"
assert len(surgery_delta.surgery_register_adapters()) == 1
print("torch" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
