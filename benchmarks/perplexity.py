"""What quantizing, pruning and low rank cost: perplexity on held-out text before and after.

    python benchmarks/perplexity.py [--work DIR] [--models zoo,smollm2-135m] [--rows bf16,int8,...]

Every row is a recipe of one step, run by surgery into a folder, which transformers loads and `eval.perplexity` scores,
in float32. Two models: the zoo's base and SmolLM2 of 135 million parameters (smollm.py and texts.py say where it and
its texts come from). Results go to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import as_yaml
from machine import describe, pin
from options import add_common, finish
from rich.table import Table
from smollm import NAME as SMOLLM
from smollm import make_smollm
from texts import write_docstrings, write_reference

ZOO = Path(__file__).resolve().parents[1] / "recipes" / "zoo"
GROUP = 64  # divides the inputs of all Linears of both models; 128 does not
CALIBRATED = "prune.wanda"
ROWS: dict[str, dict[str, Any]] = {
    "bf16": {"op": "merge.passthrough"},
    "int8": {"op": "quant.int8"},
    "int4 absmax": {"op": "quant.int4", "group_size": GROUP},
    "int4 mse": {"op": "quant.int4", "group_size": GROUP, "scales": "mse"},
    "magnitude 50 %": {"op": "prune.magnitude", "sparsity": 0.5},
    "magnitude 50 % rows": {"op": "prune.magnitude", "sparsity": 0.5, "scope": "row"},
    "wanda 50 %": {"op": CALIBRATED, "sparsity": 0.5},
    "magnitude 2:4": {"op": "prune.magnitude", "pattern": "2:4"},
    "wanda 2:4": {"op": CALIBRATED, "pattern": "2:4"},
    "svd 0.8": {"op": "lowrank.svd", "ratio": 0.8},
}
INT8 = 1.01  # times bf16's perplexity at most


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, the texts that it is measured on, and the one that it is calibrated on."""

    name: str
    folder: Path
    texts: tuple[Path, ...]
    calibration: dict[str, Any]
    length: int
    stride: int


@dataclass(frozen=True, slots=True)
class Row:
    """A variant's perplexity on each text and over all, and the seconds that making and measuring it took."""

    name: str
    perplexity: float
    each: dict[str, float]
    run_seconds: float
    measure_seconds: float

    def record(self) -> dict[str, object]:
        """Return the row as JSON holds it."""
        each = {name: round(value, 4) for name, value in self.each.items()}
        seconds = {"run": round(self.run_seconds, 1), "measure": round(self.measure_seconds, 1)}
        return {"perplexity": round(self.perplexity, 4), "each": each, "seconds": seconds}


def main() -> None:
    """Make and measure every row of every model, and report."""
    args = _arguments()
    machine = describe(pin(args.cores))
    _quieten()
    subjects = [_subject(name, args.work, args.text_bytes) for name in args.models.split(",")]
    tables, missed, record = [], [], {}
    for subject in subjects:
        rows = [_row(subject, name, args.work / "out" / "perplexity") for name in args.rows.split(",")]
        tables.append(_table(subject, rows))
        missed += [f"{subject.name}: {words}" for words in _missed({row.name: row for row in rows})]
        record[subject.name] = {**_settings(subject), "rows": {row.name: row.record() for row in rows}}
    finish(args.name, tables, missed, {"machine": machine, "steps": ROWS, "models": record})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Perplexity of quantized and pruned models.")
    add_common(parser, name="perplexity")
    parser.add_argument("--models", default=f"zoo,{SMOLLM}", help=f"which of zoo,{SMOLLM} (both)")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"which of {', '.join(ROWS).replace('%', '%%')} (all)"
    )
    parser.add_argument("--text-bytes", type=int, default=24_000, help="bytes of docstrings to read (24000)")
    return parser.parse_args()


def _subject(name: str, work: Path, nbytes: int) -> Subject:
    if name == "zoo":
        texts = tuple(ZOO / "heldout" / f"{domain}.txt" for domain in ("code", "prose", "math"))
        calibration = {"text": str(ZOO / "calibration.txt"), "samples": 128, "length": 128}
        return Subject("zoo", ZOO / "base", texts, calibration, length=256, stride=128)
    if name != SMOLLM:
        raise SystemExit(f"--models: `{name}` is none of zoo, {SMOLLM}")
    texts = ZOO / "heldout" / "prose.txt", write_docstrings(work / "texts" / "docstrings.txt", nbytes)
    reference = write_reference(work / "texts" / "reference.txt")
    calibration = {"text": str(reference), "samples": 64, "length": 256}
    return Subject(SMOLLM, make_smollm(work), texts, calibration, length=512, stride=256)


def _row(subject: Subject, name: str, out: Path) -> Row:
    """Make one variant, measure it, take it away again."""
    shutil.rmtree(out, ignore_errors=True)
    run_seconds = _run(subject, ROWS[name], out)
    start = time.perf_counter()
    losses = _losses(subject, out)
    measured = time.perf_counter() - start
    shutil.rmtree(out)
    row = Row(
        name,
        math.exp(losses.pop("score")),
        {text: math.exp(loss) for text, loss in losses.items()},
        run_seconds,
        measured,
    )
    print(f"{subject.name} {name}: {row.perplexity:.3f} ({run_seconds:.0f} + {measured:.0f} s)", flush=True)
    return row


def _run(subject: Subject, step: dict[str, Any], out: Path) -> float:
    """Run the recipe of one step; return the seconds that surgery took, calibration included."""
    import surgery

    document: dict[str, Any] = {
        "surgery": 1,
        "models": {"base": str(subject.folder)},
        "steps": {"changed": {**step, "model": "base"}},
        "output": {"model": "changed", "to": str(out)},
    }
    if step["op"] == CALIBRATED:
        document["calibration"] = subject.calibration
    start = time.perf_counter()
    surgery.loads(as_yaml(document)).run()
    return time.perf_counter() - start


def _losses(subject: Subject, folder: Path) -> dict[str, float]:
    """Return nats per token: the mean over the texts as `score`, and each text's."""
    from surgery_eval._model import ResidentModel
    from surgery_eval.perplexity import Perplexity, PerplexityEvaluator

    settings = Perplexity(
        text=[str(text) for text in subject.texts], length=subject.length, stride=subject.stride, unit="token"
    )
    losses = PerplexityEvaluator.make().score(ResidentModel(*_open(folder), "cpu"), settings)
    gc.collect()
    return losses


def _open(folder: Path) -> tuple[Any, Any]:
    """Return the model in float32, decoded if it is quantized, and its tokenizer. All tensors must be there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

    quantized = "quantization_config" in json.loads((folder / "config.json").read_text("utf-8"))
    decoded = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if quantized else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **decoded
    )
    if any(info.values()):
        raise SystemExit(f"{folder.name}: transformers does not find what it expects: {info}")
    return model.float().eval(), AutoTokenizer.from_pretrained(folder)


def _quieten() -> None:
    """Keep the libraries' notes and progress bars out of the output."""
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _settings(subject: Subject) -> dict[str, object]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject.folder)
    texts = {
        text.name: len(tokenizer(text.read_text("utf-8"), add_special_tokens=False, verbose=False).input_ids)
        for text in subject.texts
    }
    calibration = {**subject.calibration, "text": Path(subject.calibration["text"]).name}
    return {"tokens": texts, "length": subject.length, "stride": subject.stride, "calibration": calibration}


def _missed(rows: dict[str, Row]) -> list[str]:
    """Return, in words, the targets that were not reached among the rows that were measured."""
    missed = []
    wanda, magnitude = rows.get("wanda 2:4"), rows.get("magnitude 2:4")
    if wanda and magnitude and wanda.perplexity >= magnitude.perplexity:
        found = f"{wanda.perplexity:.3f}, magnitude's {magnitude.perplexity:.3f}"
        missed.append(f"wanda 2:4 has perplexity {found}; wanted less")
    if "int8" in rows and "bf16" in rows:
        ratio = rows["int8"].perplexity / rows["bf16"].perplexity
        if ratio > INT8:
            missed.append(f"int8 has {ratio:.4f} x the perplexity of bf16, wanted {INT8} at most")
    return missed


def _table(subject: Subject, rows: list[Row]) -> Table:
    names = [text.stem for text in subject.texts]
    columns = ("row", *names, "all", "over bf16", "run s", "measure s")
    grid = Table(*columns, title=f"{subject.name}: perplexity per token")
    plain = next((row.perplexity for row in rows if row.name == "bf16"), math.nan)
    for row in rows:
        each = [f"{row.each[name]:.3f}" for name in names]
        seconds = f"{row.run_seconds:.1f}", f"{row.measure_seconds:.1f}"
        grid.add_row(row.name, *each, f"{row.perplexity:.3f}", f"{row.perplexity / plain:.3f}", *seconds)
    return grid


if __name__ == "__main__":
    main()
