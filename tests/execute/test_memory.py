"""Peak memory, held against the schedule's own figure and the budget that the user gives."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from safetensors.torch import save_file

from surgery import ResourceError, RunOptions
from surgery.schedule.order import order

MIB = 2**20

# Each recipe runs in a fork of one process that has torch imported: what a fork's memory grows by is the run's.
MEASURE = """
import json, os, re, sys, traceback
import torch, surgery, surgery.execute.run
from surgery.schedule.order import order
toys, *cases = sys.argv[1:]

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

for case in map(json.loads, cases):
    child = os.fork()
    if child == 0:
        try:
            options = surgery.RunOptions(device="cpu", threads=2, memory=case["memory"])
            open("/proc/self/clear_refs", "w").write("5")
            before = status("VmRSS")
            plan = surgery.loads(case["recipe"], folder=".", plugins=[toys]).resolve()
            schedule = order(plan.plan, options)
            report = plan.run(options)
            used = status("VmHWM") - before
            print(json.dumps({"used": used, "peak": schedule.peak, "workers": report.workers}), flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


def hollow(path, **shapes: tuple[int, ...]) -> None:
    """Write a checkpoint of float32 zeros that takes no room: a header, then a hole."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


CASES = {
    "a merge of tensors far larger than the budget": (
        96 * MIB,
        {"m": {"op": "toy.linear", "models": {"a": 0.5, "b": 0.5, "c": 1}}},
    ),
    "a reduction of them, with a chain on top": (
        128 * MIB,
        {
            "n": {"op": "toy.standard", "models": ["d", "e"]},
            "m": {"op": "toy.dither", "model": "n", "factor": 0.1},
        },
    ),
    "long rows": (400 * MIB, {"m": {"op": "toy.row_index", "model": "d", "base": "e"}}),
    "a whole tensor": (
        400 * MIB,
        {"m": {"op": "toy.centered", "model": "small"}},
    ),
    "a group": (400 * MIB, {"m": {"op": "toy.share", "model": "small"}}),
}


WHOLE_MODEL = {
    "ties": {"each": {"density": 0.5}, "scope": "model"},
    "pcb": {"each": {}, "scope": "model"},
}


@pytest.mark.slow
def test_shares_of_a_whole_model_larger_than_the_budget_take_no_more_than_any_other(shop, toys):
    budget, rows = 110 * MIB, 12
    for seed, name in enumerate(("base", "a", "b")):
        numbers = torch.randn(rows, 1_000_003, generator=torch.Generator().manual_seed(seed))
        tensors = {f"layers.{i}.w": part.clone() for i, part in enumerate(numbers.split(rows // 2))}
        (shop.folder / name).mkdir()
        save_file(tensors, shop.folder / name / "model.safetensors")
    shop.models = {name: f"./{name}" for name in ("base", "a", "b")}
    assert 3 * rows * 1_000_003 * 4 > budget
    cases = []
    for method, told in WHOLE_MODEL.items():
        models = dict.fromkeys(("a", "b"), told["each"])
        step = {"op": f"merge.{method}", "base": "base", "models": models, "scope": told["scope"]}
        document = shop.document({"m": step}, to=f"out-{method}")
        cases.append(json.dumps({"memory": budget, "recipe": yaml.safe_dump(document, sort_keys=False)}))
    printed, errors = shop.start(MEASURE, toys, *cases).communicate(timeout=100)
    assert errors == ""
    for method, line in zip(WHOLE_MODEL, printed.splitlines(), strict=True):
        case = json.loads(line)
        assert case["used"] <= case["peak"] <= budget, (method, case)


@pytest.mark.slow
def test_memory_stays_below_the_schedules_figure_and_the_budget(shop, toys):
    for name, rows in {"a": 70, "b": 70, "c": 70, "d": 20, "e": 20}.items():
        hollow(shop.folder / name / "m.safetensors", big=(rows, 1_000_003))
    hollow(shop.folder / "small" / "m.safetensors", **{"layers.0.w": (3000, 4000)})
    shop.models = {name: f"./{name}" for name in ("a", "b", "c", "d", "e", "small")}
    cases = []
    for index, (memory, steps) in enumerate(CASES.values()):
        document = shop.document(steps, to=f"out{index}", dtype="bfloat16", on_nonfinite="keep")
        cases.append(json.dumps({"memory": memory, "recipe": yaml.safe_dump(document, sort_keys=False)}))
    printed, errors = shop.start(MEASURE, toys, *cases).communicate(timeout=100)
    assert errors == ""
    assert os.path.getsize(shop.folder / "a" / "m.safetensors") > 256 * MIB
    found = [json.loads(line) for line in printed.splitlines()]
    for (what, (memory, _)), case in zip(CASES.items(), found, strict=True):
        shown = {key: round(value / MIB, 1) for key, value in case.items() if key != "workers"}
        assert case["used"] <= case["peak"] <= memory, (what, shown)
        assert case["workers"] == 2, what
    whole = found[3]
    assert whole["used"] > 48 * MIB, "a whole tensor that takes no memory measures nothing"


def test_a_tensor_that_cannot_fit_is_refused_before_any_work(shop):
    shop.save("a", {"small": torch.randn(10, 10), "large": torch.randn(2000, 3000)})
    steps = {
        "x": {"op": "toy.gram", "model": "a"},
        "y": {"op": "toy.scale", "model": "x", "factor": 2},
    }
    with pytest.raises(ResourceError) as error:
        shop.run(steps, RunOptions(device="cpu", memory=100 * MIB))
    text = str(error.value)
    assert text.startswith("schedule: step x needs 1")
    assert text.endswith(" MiB for large, budget is 100.0 MiB; raise --memory")
    assert not any(path.name.startswith("out") for path in shop.folder.iterdir())
    needed = float(text.split()[4])
    shop.run(steps, RunOptions(device="cpu", memory=int((needed + 0.1) * MIB)))
    assert shop.report.workers == 1


def test_wide_rows_leave_room_for_fewer_workers(shop):
    shop.save("a", {"w": torch.rand(3, 400_000) + 1})
    resolved = shop.recipe({"m": {"op": "toy.row_max", "model": "a"}}).resolve()
    by_memory = {
        mib: order(resolved.plan, RunOptions(threads=4, memory=mib * MIB)).workers for mib in (96, 160, 1000)
    }
    assert by_memory[96] < by_memory[160] < by_memory[1000] == 4
    assert resolved.run(RunOptions(device="cpu", threads=4, memory=96 * MIB)).workers == by_memory[96]


def test_jobs_in_flight_together_hold_no_more_than_there_is_room_for(shop):
    tensors = {f"layers.{i}.w": torch.randn(100, 1000) for i in range(8)}
    shop.save("a", tensors)
    resolved = shop.recipe({"m": {"op": "toy.gram", "model": "a"}}).resolve()
    held = max(job.held for job in order(resolved.plan, RunOptions()).jobs)
    schedule = order(resolved.plan, RunOptions(threads=8, memory=64 * MIB))
    assert schedule.peak <= 64 * MIB
    assert schedule.room >= held
    assert schedule.workers < 8


def test_old_pickles_count_with_their_whole_files(shop):
    (shop.folder / "old").mkdir()
    torch.save(
        {"w": torch.randn(1000)},
        shop.folder / "old" / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )
    save_file({"w": torch.randn(1000)}, shop.folder / "new.safetensors")
    shop.models = {"old": "./old", "new": "./new.safetensors"}
    size = os.path.getsize(shop.folder / "old" / "pytorch_model.bin")
    peaks = {}
    for name in ("old", "new"):
        plan = shop.recipe({"m": {"op": "toy.scale", "model": name}}).resolve().plan
        peaks[name] = order(plan, RunOptions(threads=1)).peak
    assert 4000 <= peaks["old"] - peaks["new"] <= size + 100
