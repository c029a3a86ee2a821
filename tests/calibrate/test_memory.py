"""Peak memory of a calibrated run, held against the schedule's own figure, on models of two depths."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from surgery.testing.tiny import tiny_config, tiny_specs

MIB = 2**20
ZOO = Path(__file__).parents[2] / "recipes" / "zoo"
SIZES = {"hidden": 2048, "intermediate": 4608, "heads": 16, "kv_heads": 4, "vocab": 1024, "dtype": "bfloat16"}

# Each recipe runs in a fork of one process that has torch imported: what a fork's memory grows by is the run's.
MEASURE = """
import json, os, re, sys, traceback
import torch, surgery, surgery.execute.run

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

for recipe in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            options = surgery.RunOptions(device="cpu", threads=2, memory=1 << 30)
            open("/proc/self/clear_refs", "w").write("5")
            before = status("VmRSS")
            plan = surgery.load(recipe, plugins=["toys.py"]).resolve()
            schedule = plan.order(options)
            plan.run(options, schedule=schedule)
            print(json.dumps({"used": status("VmHWM") - before, "peak": schedule.peak}), flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


def hollow(folder: Path, layers: int) -> None:
    """Write a model of zeros that takes no room: a header, then a hole."""
    header, at = {}, 0
    for name, spec in tiny_specs(layers=layers, **SIZES).items():
        header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [at, at + spec.nbytes]}
        at += spec.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    (folder / "config.json").write_text(json.dumps(tiny_config(layers=layers, **SIZES)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / name, folder / name)


@pytest.mark.slow
def test_memory_is_what_the_schedule_says_whatever_the_depth(bench):
    names = []
    for layers in (1, 3):
        bench.models = [f"m{layers}"]
        hollow(bench.folder / f"m{layers}", layers)
        bench.settings = {"text": "text.txt", "samples": 2, "length": 48}
        steps = {"x": {"op": "cal.seen", "model": f"m{layers}", "where": "mlp"}}
        names.append(f"{layers}.yaml")
        (bench.folder / names[-1]).write_text(yaml.safe_dump(bench.document(steps, to=f"out{layers}")))
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *names],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert ran.stderr == ""
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    for case in found:
        shown = {key: round(value / MIB, 1) for key, value in case.items()}
        assert 0.85 * case["peak"] <= case["used"] <= case["peak"], shown
    assert abs(found[1]["peak"] - found[0]["peak"]) < MIB
    assert found[1]["used"] < 1.1 * found[0]["used"]
    block = sum(
        torch.Size(s.shape).numel() for n, s in tiny_specs(layers=1, **SIZES).items() if "layers" in n
    )
    assert found[0]["used"] > 4 * block, "a block that takes no memory measures nothing"
