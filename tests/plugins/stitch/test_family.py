"""What the family registers, and that planning with it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import surgery_stitch


def test_the_hook_returns_every_op_and_imports_no_torch():
    ops = surgery_stitch.surgery_register_ops()
    names = (
        "chat_template drop interleave layers moe repeat resize_vocab tokenizer transplant_tokenizer upcycle"
    )
    assert [op.name for op in ops] == [f"stitch.{name}" for name in names.split()]
    assert all(op.cite and op.summary.endswith(".") for op in ops)
    code = "import surgery_stitch, sys; surgery_stitch.surgery_register_ops(); print('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
