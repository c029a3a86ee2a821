"""Run in the plugin's own environment: its ops are found, obey the laws, and work in a recipe."""

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
assert (plugin.origin, plugin.version) == ("surgery-shrink", "0.2.1"), plugin

toward, clip = host.op("shrink.toward"), host.op("shrink.clip")
base, model = torch.tensor([1.0, 2.0, -4.0]), torch.tensor([3.0, 2.0, 0.0])
OpCase(toward, {"by": 0.25}, models=[model], base=base, expected=torch.tensor([2.5, 2.0, -1.0])).check()
OpCase(clip, {"at": 1.0}, models=[model], base=base).check()

for name, tensor in (("base", base), ("tuned", model)):
    (folder / name).mkdir()
    save_file({"w": tensor}, folder / name / "model.safetensors")
(folder / "r.yaml").write_text(
    "surgery: 1\n"
    "models: {base: ./base, tuned: ./tuned}\n"
    "steps:\n"
    "  half: {op: shrink.toward, base: base, model: tuned}\n"
    "output: {model: half, to: ./out}\n"
)
report = surgery.load(folder / "r.yaml").run()
assert load_file(folder / "out" / "model.safetensors")["w"].tolist() == [2.0, 2.0, -2.0]
print("checked", report.outputs[0].tensors)
