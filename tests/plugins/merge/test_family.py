"""What the family registers, and that planning with it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import surgery_merge

NAMES = [
    "merge.arcee_fusion",
    "merge.assemble",
    "merge.boost",
    "merge.breadcrumbs",
    "merge.breadcrumbs_ties",
    "merge.cart",
    "merge.cast",
    "merge.consensus",
    "merge.dare_linear",
    "merge.dare_ties",
    "merge.della",
    "merge.della_linear",
    "merge.dop",
    "merge.emr",
    "merge.emr_task",
    "merge.extrapolate",
    "merge.fallback",
    "merge.fisher",
    "merge.geometric_median",
    "merge.gram",
    "merge.iso_c",
    "merge.iso_cts",
    "merge.karcher",
    "merge.linear",
    "merge.localize",
    "merge.magmax",
    "merge.metagpt",
    "merge.model_stock",
    "merge.multislerp",
    "merge.nearswap",
    "merge.nuslerp",
    "merge.opcm",
    "merge.passthrough",
    "merge.pcb",
    "merge.ram",
    "merge.ramplus",
    "merge.regmean",
    "merge.renorm",
    "merge.reset",
    "merge.sce",
    "merge.slerp",
    "merge.star",
    "merge.svc",
    "merge.task_arithmetic",
    "merge.ties",
    "merge.transplant",
    "merge.tsvm",
    "merge.wudi",
]


def test_the_hook_returns_every_op():
    assert [op.name for op in surgery_merge.surgery_register_ops()] == NAMES


def test_every_op_says_where_it_comes_from_and_what_it_does():
    for op in surgery_merge.surgery_register_ops():
        assert op.cite, op.name
        assert op.summary.endswith("."), op.name
        for kind in [op.params, *([op.each] if op.each else [])]:
            assert all(field.description for field in kind.model_fields.values()), kind


def test_planning_with_the_family_imports_no_torch():
    code = """
import sys
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
import surgery_merge
spec = TensorSpec("w", (4, 4), "BF16")
given = {"weight": 1.0, "density": 0.5, "t": 0.5, "fisher": "f", "gram": "g"}
for op in surgery_merge.surgery_register_ops():
    params = op.params.model_validate({k: v for k, v in given.items() if k in op.params.model_fields})
    fields = op.each.model_fields if op.each else {}
    each = (op.each.model_validate({k: v for k, v in given.items() if k in fields}),) * 2 if fields else ()
    signature = Signature("w", (spec, spec), spec, each, Role(), 16)
    op.split_of(params), op.output(signature, params)
    op.check and op.check(signature, params), op.simplify and op.simplify(signature, params)
print("torch" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
