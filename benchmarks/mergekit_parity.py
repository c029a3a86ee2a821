"""Do mergekit's documents make the same models here? A corpus on tiny models, through both programs.

    python benchmarks/mergekit_parity.py [--work DIR] [--only NAME ...]

Every document is carried out by mergekit and by surgery as it is, and where that differs by surgery with
`--compat mergekit`. A document is the same if every tensor is, within 2e-6 of its largest element (one bfloat16 step
where that is stored). What differs by intent is in docs/mergekit.md; random masks are compared by how much they change.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import parity_tokens
from environment import MERGEKIT, make_environment
from machine import describe, pin
from options import add_common, finish
from parity_corpus import DEFECTS, DOCUMENTS, SCORED
from rich.table import Table
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
TOLERANCE = 2e-6
STEP = 2.0**-7  # of bfloat16, of the largest element of a tensor
SHARE = 0.01  # of elements whose scores equal the threshold but for rounding
MOMENT = 0.1  # random masks: the mean change of a matrix may differ by this share


@dataclass(frozen=True, slots=True)
class Row:
    """A document: whether each program ran it, and the largest difference of ours, as a share of a tensor's largest."""

    document: str
    mergekit: str
    error: str
    default: float | None
    compat: float | None
    differing: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Return what the row says in a word."""
        if self.mergekit:
            return "mergekit fails"
        if self.error:
            return "surgery fails"
        limit = limit_of(self.document)
        if self.default is not None and self.default <= limit:
            return "same"
        return "same with compat" if self.compat is not None and self.compat <= limit else "differs"


def limit_of(document: str) -> float:
    """Return the most that a document's outputs may differ by."""
    if document.startswith("random"):
        return MOMENT
    if document in SCORED:
        return SHARE
    return STEP if "bf16" in document else TOLERANCE


def main() -> None:
    """Run the corpus through both programs and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_common(parser, name="mergekit_parity")
    parser.add_argument("--only", nargs="*", default=[], help="names of documents (all)")
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    folder = args.work / "parity"
    shutil.rmtree(folder, ignore_errors=True)
    models(folder)
    corpus = DOCUMENTS | parity_tokens.DOCUMENTS
    chosen = {name: text for name, text in corpus.items() if not args.only or name in args.only}
    write(folder / "documents", chosen)
    failed = mergekit(make_environment(args.work, MERGEKIT), folder)
    rows = [compare(folder, name, failed.get(name, "")) for name in chosen]
    missed = [
        f"{row.document}: {row.verdict}: {row.error}"
        for row in rows
        if row.verdict in ("differs", "surgery fails")
    ]
    record = {"machine": machine, "mergekit": MERGEKIT.package, "tolerance": TOLERANCE}
    rowed = [{**asdict(row), "verdict": row.verdict} for row in rows]
    finish(args.name, [table(rows)], missed, {**record, "documents": rowed})


def models(folder: Path) -> None:
    """Make the models: four of one shape, fine-tunes near their base, and two whose head is tied."""
    from surgery.testing.tiny import tiny_llama

    for name, seed, tied in (("base", 0, False), ("a", 1, False), ("b", 2, False), ("c", 3, False)):
        save(folder / name, *near(*tiny_llama(seed=0, layers=4, tied=tied), seed))
    for name, seed in (("tied", 4), ("tied2", 5)):
        save(folder / name, *tiny_llama(seed=seed, layers=4, tied=True))
    for name, seed in (("t5", 6), ("t5b", 7)):
        pair(folder / name, seed)
    parity_tokens.models(folder, save)


def pair(folder: Path, seed: int) -> None:
    """Make an encoder with a decoder."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 32,
        "d_model": 16,
        "d_ff": 32,
        "d_kv": 4,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    }
    config = T5Config(**sizes, num_layers=2, num_decoder_layers=3)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def near(tensors: dict, config: dict, seed: int) -> tuple[dict, dict]:
    """Return a model with a little added to every element, nothing for seed 0."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(x.shape, generator=draw) * 0.005 * bool(seed) for name, x in tensors.items()}
    return {name: x + noise[name] for name, x in tensors.items()}, config


def save(folder: Path, tensors: dict, config: dict) -> None:
    """Write a model as both programs read it."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write(folder: Path, documents: dict[str, str]) -> None:
    """Write the documents beside the models."""
    folder.mkdir()
    for name, text in documents.items():
        (folder / f"{name}.yaml").write_text(text.strip() + "\n", encoding="utf-8")


def mergekit(python: Path, folder: Path) -> dict[str, str]:
    """Carry all documents out with mergekit; return what it said of those that failed."""
    command = [str(python), str(HERE / "peer_parity.py"), "documents", "mergekit"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=offline, capture_output=True, text=True, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"document"')]
    return {row["document"]: row["error"] for row in said if row["error"]}


def compare(folder: Path, name: str, failed: str) -> Row:
    """Carry a document out with surgery and hold the output against mergekit's; where it differs, again with compat."""
    recipe, out = folder / f"{name}.yaml", folder / "surgery" / name
    shutil.copy(folder / "documents" / recipe.name, recipe)
    error = surgery("run", recipe, "--out", out)
    if failed or error:
        return Row(name, failed, error, None, None, ())
    default, limit = differences(folder, name, out), limit_of(name)
    differing = tuple(sorted(tensor for tensor, gap in default.items() if gap > limit))
    if not differing:
        return Row(name, "", "", max(default.values()), None, ())
    native, again = folder / f"{name}-native.yaml", folder / "compat" / name
    error = surgery("convert", recipe, "--compat", "mergekit", "--out", native)
    error = error or surgery("run", native, "--out", again)
    compat = None if error else max(differences(folder, name, again).values())
    return Row(name, "", error, max(default.values()), compat, differing[:6])


def differences(folder: Path, name: str, out: Path) -> dict[str, float]:
    """Return by how much each tensor of ours differs from mergekit's; those that it gets wrong are left out."""
    theirs = folder / "mergekit" / name
    if name.startswith("tokens"):
        return parity_tokens.gaps_by_token(read(theirs), read(out), (theirs, out))
    measure = moments if name.startswith("random") else shares if name in SCORED else gaps
    found = measure(theirs, out, folder / "base")
    return {tensor: gap for tensor, gap in found.items() if tensor not in DEFECTS.get(name, ())}


def surgery(*words: object) -> str:
    """Run a command of ours; return what it said if it failed."""
    command = [sys.executable, "-m", "surgery", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def gaps(theirs: Path, ours: Path, base: Path) -> dict[str, float]:
    """Return each tensor's largest difference, as a share of its largest element; 1 for one that only one has."""
    a, b = read(theirs), read(ours)
    found = dict.fromkeys(a.keys() ^ b.keys(), 1.0)
    for name in a.keys() & b.keys():
        if a[name].dtype != b[name].dtype or a[name].shape != b[name].shape:
            found[name] = 1.0
            continue
        x, y = a[name].double(), b[name].double()
        found[name] = float((x - y).abs().max() / x.abs().max().clamp(min=1e-30))
    return found


def shares(theirs: Path, ours: Path, base: Path) -> dict[str, float]:
    """Return the share of each tensor's elements that differ; 1 for a tensor that only one has."""
    a, b = read(theirs), read(ours)
    found = {name: float((a[name] != b[name]).double().mean()) for name in a.keys() & b.keys()}
    return found | dict.fromkeys(a.keys() ^ b.keys(), 1.0)


def moments(theirs: Path, ours: Path, base: Path) -> dict[str, float]:
    """Return by which share the mean size of the change to all matrices differs."""
    a, b, start = read(theirs), read(ours), read(base)
    names = [name for name in start if start[name].ndim == 2]
    x, y = (sum(float((m[n] - start[n]).abs().sum()) for n in names) for m in (a, b))
    return {"all": abs(x - y) / x}


def read(folder: Path) -> dict:
    """Return all tensors of a folder."""
    found: dict = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def table(rows: list[Row]) -> Table:
    """Return the rows as people read them."""
    grid = Table(
        "document", "verdict", "as it is", "with compat", "tensors that differ", title="mergekit's documents"
    )
    for row in rows:
        numbers = ["" if gap is None else f"{gap:.1e}" for gap in (row.default, row.compat)]
        said = (
            row.mergekit or row.error.splitlines()[0]
            if row.mergekit or row.error
            else ", ".join(row.differing)
        )
        grid.add_row(row.document, row.verdict, *numbers, said[:70])
    return grid


if __name__ == "__main__":
    main()
