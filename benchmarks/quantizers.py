"""The programs of quantize.py: what each is called, reads, writes, and how it is run, watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import HERE, Run, as_yaml, clear, finished, surgery
from measure import watch

MERGED = ("a", "b", "c")
MERGE = {"op": "merge.linear", "models": {name: {"weight": 1.0} for name in MERGED}}
# by program: the steps, of which the last is written
STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "int4": {"packed": {"op": "quant.int4", "model": "a"}},
    "merge": {"merged": MERGE},
    "merge+int4": {"merged": MERGE, "packed": {"op": "quant.int4", "model": "merged"}},
}
WORKERS = {"llm-compressor": 1, "llm-compressor, 2 shards": 2}


@dataclass(frozen=True, slots=True)
class Quantizers:
    """What every run shares: folders, models by name, surgery's budget, llm-compressor's interpreter."""

    work: Path
    out: Path
    models: dict[str, Path]
    memory: str
    python: Path

    @property
    def peers(self) -> tuple[str, ...]:
        """Return the variants of llm-compressor."""
        return tuple(WORKERS)

    @property
    def programs(self) -> tuple[str, ...]:
        """Return all programs in their turn."""
        return (*STEPS, *WORKERS)

    def inputs(self, program: str) -> list[Path]:
        """Return the models that a program reads."""
        return [self.models[name] for name in (MERGED if "merge" in program else ("a",))]

    def output(self, program: str) -> Path:
        """Return the folder that a program writes."""
        return self.out / f"quantize-{program.replace(', ', '-').replace(' ', '-')}"

    def run(self, program: str) -> Run:
        """Run a program once, on an idle disk and with no earlier output in its way."""
        out = self.output(program)
        command = self._surgery(program, out) if program in STEPS else self._peer(program, out)
        clear(out)
        usage = watch(command, self.work)
        return Run(finished(usage)["seconds"], usage.seconds, usage.peak_anonymous, usage.peak_resident)

    def _surgery(self, program: str, out: Path) -> list[str]:
        steps = STEPS[program]
        output = {"model": list(steps)[-1], "dtype": "bfloat16", "to": str(out)}
        models = {path.name: str(path) for path in self.inputs(program)}
        recipe = self.work / f"quantize-{program}.yaml"
        document = {"surgery": 1, "models": models, "steps": steps, "output": output}
        recipe.write_text(as_yaml(document), encoding="utf-8")
        return surgery("run", str(recipe), "--memory", self.memory, "--json")

    def _peer(self, program: str, out: Path) -> list[str]:
        script = str(HERE / "peer_quantize.py")
        return [str(self.python), script, str(self.models["a"]), str(out), str(WORKERS[program])]
