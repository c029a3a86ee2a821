"""Run in the plugin's own environment: what its author added is found, obeys the laws, and works in a recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.host import Host
from surgery.testing import OpCase

folder = Path(sys.argv[1])
host = Host()
plugin = host.families["shrink"]
assert (plugin.origin, plugin.version) == ("surgery-shrink", "0.1.0"), plugin
assert [op.name for op in host.load(plugin).ops] == ["shrink.clip", "shrink.toward"]

# By hand: the delta is (2, 0, 0, 0), its root mean square 1.
base, model = torch.tensor([1.0, 2.0, -4.0, 0.0]), torch.tensor([3.0, 2.0, -4.0, 0.0])
OpCase(host.op("shrink.clip"), {"at": 1.5}, models=[model], base=base, expected=[2.5, 2.0, -4.0, 0.0]).check()

for name, tensor in (("base", base), ("tuned", model)):
    (folder / name).mkdir()
    save_file({"w": tensor}, folder / name / "model.safetensors")
(folder / "r.yaml").write_text(
    "surgery: 1\n"
    "models: {base: ./base, tuned: ./tuned}\n"
    "steps:\n"
    "  half: {op: shrink.toward, base: base, model: tuned}\n"
    "  less: {op: shrink.clip, base: base, model: half, at: 1}\n"
    "output: {model: less, to: ./out}\n"
)
report = surgery.load(folder / "r.yaml").run()
assert load_file(folder / "out" / "model.safetensors")["w"].tolist() == [1.5, 2.0, -4.0, 0.0]
print("checked", report.outputs[0].tensors)
