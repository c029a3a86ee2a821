"""The contestants: the floor, surgery, mergekit. Each runs a method as a program of its own, watched."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints import settle
from measure import Usage, watch

HERE = Path(__file__).resolve().parent
DENSITY = 0.5
METHODS = ("linear", "ties")
# What mergekit computes in, and stores in. Its linear accumulates in float32 by itself. Its ties computes in
# the inputs' dtype: float32 gives the numbers that we give, bfloat16 is what most recipes say. Both are
# timed, and the faster one counts.
MERGEKIT_DTYPES = {
    "linear": {"mergekit": {"dtype": "bfloat16"}},
    "ties": {
        "mergekit": {"dtype": "float32", "out_dtype": "bfloat16"},
        "mergekit-bf16": {"dtype": "bfloat16"},
    },
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds of execution alone and of the whole process, peaks of memory in bytes."""

    execution: float
    process: float
    peak_anonymous: int
    peak_resident: int

    def record(self) -> dict[str, object]:
        """Return the run as JSON holds it."""
        return {key: round(value, 3) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run shares: folders, models by name, surgery's budget, mergekit's interpreter."""

    work: Path
    out: Path
    models: dict[str, Path]
    memory: str
    mergekit: Path | None = None

    def run(self, method: str, contestant: str) -> Run:
        """Run a contestant once, on an idle disk and with no earlier output in its way."""
        out = self.output(method, contestant)
        document = self.work / f"{method}-{contestant}.yaml"
        command = self._command(method, contestant, document, out)
        clear(out)
        usage = watch(command, self.work)
        return Run(finished(usage)["seconds"], usage.seconds, usage.peak_anonymous, usage.peak_resident)

    def output(self, method: str, contestant: str) -> Path:
        """Return what a contestant writes: a folder, the floor a file."""
        return self.out / f"{method}-{contestant}"

    def inputs(self, method: str) -> list[Path]:
        """Return the models that a method must read."""
        return [self.models[name] for name in _inputs(method, self.models)]

    def _command(self, method: str, contestant: str, document: Path, out: Path) -> list[str]:
        if contestant == "floor":
            return [sys.executable, str(HERE / "floor.py"), str(out), *map(str, self.inputs(method))]
        if contestant == "surgery":
            document.write_text(surgery_recipe(method, self.models, out), encoding="utf-8")
            return surgery("run", str(document), "--out", str(out), "--memory", self.memory, "--json")
        if self.mergekit is None:
            raise ValueError(f"{contestant}: no environment was made for it")
        document.write_text(mergekit_document(method, contestant, self.models), encoding="utf-8")
        return [str(self.mergekit), str(HERE / "peer.py"), str(document), str(out)]


def clear(out: Path) -> None:
    """Take earlier output out of a run's way, and let the disk come to rest."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for old in (out, out.with_name(out.name + ".partial")):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    settle()


def surgery(*arguments: str) -> list[str]:
    """Return the command that runs surgery with this interpreter."""
    return [sys.executable, "-m", "surgery", *arguments]


def finished(usage: Usage) -> dict[str, Any]:
    """Return the event that a program prints last; if it failed, end with the program's words."""
    if usage.returncode == 0:
        event = json.loads(usage.last_line)
        if event.get("event") == "finished":
            return dict(event)
    words = f"{usage.stdout[-1000:]}{usage.stderr[-4000:]}"
    raise SystemExit(f"a program under test failed with exit code {usage.returncode}:\n{words}")


def surgery_recipe(method: str, models: dict[str, Path], out: Path | None = None) -> str:
    """Return surgery's recipe: equal weights; for ties, half of each delta kept. Without `out`: for planning."""
    needed = _inputs(method, models)
    merged = {name: _parameters(method) for name in needed if name != "base"}
    step: dict[str, Any] = {"op": f"merge.{method}", "models": merged}
    if "base" in needed:
        step["base"] = "base"
    output = {"model": "merged", "dtype": "bfloat16"} | ({"to": str(out)} if out else {})
    sources = {name: str(models[name]) for name in needed}
    return as_yaml({"surgery": 1, "models": sources, "steps": {"merged": step}, "output": output})


def mergekit_document(method: str, variant: str, models: dict[str, Path]) -> str:
    """Return mergekit's document for the same merge."""
    needed = _inputs(method, models)
    merged = [{"model": str(models[n]), "parameters": _parameters(method)} for n in needed if n != "base"]
    document: dict[str, Any] = {"merge_method": method, "models": merged, **MERGEKIT_DTYPES[method][variant]}
    if "base" in needed:
        document["base_model"] = str(models["base"])
    return as_yaml(document)


def _inputs(method: str, models: dict[str, Path]) -> list[str]:
    return [name for name in models if name != "base" or method != "linear"]


def _parameters(method: str) -> dict[str, float]:
    return {"weight": 1.0} if method == "linear" else {"weight": 1.0, "density": DENSITY}


def as_yaml(document: dict[str, Any]) -> str:
    """Return a document as YAML: as JSON, which is YAML too and quotes a path whatever is in it."""
    return json.dumps(document, indent=2) + "\n"
