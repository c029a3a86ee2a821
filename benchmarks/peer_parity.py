"""Run a folder of merge documents through mergekit; run by mergekit's interpreter, not by ours.

    cd MODELS; ENVIRONMENT/bin/python benchmarks/peer_parity.py DOCUMENTS OUT

Each document NAME.yaml is carried out as `mergekit-yaml` does, into OUT/NAME; a file of several documents by
`mergekit-multi`, one about files by `mergekit-pytorch`. One line of JSON a document says whether that worked.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import yaml


def main(documents: str, out: str) -> None:
    """Carry every document out, print a line for each."""
    for path in sorted(Path(documents).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        try:
            if path.stem.startswith("raw"):
                program("mergekit-pytorch", path, Path(out) / path.stem)
            elif "\n---\n" in text:
                several(path, Path(out) / path.stem)
            else:
                one(text, Path(out) / path.stem)
            error = ""
        except Exception as failed:  # whatever it is, it is a row of the table
            error = f"{type(failed).__name__}: {failed}".splitlines()[0][:200]
        print(json.dumps({"document": path.stem, "error": error}), flush=True)


def one(text: str, out: Path) -> None:
    """Carry one document out in this process: importing mergekit takes longer than the merge."""
    merge = importlib.import_module("mergekit.merge")
    config = importlib.import_module("mergekit.config")
    options = importlib.import_module("mergekit.options")
    parsed = config.MergeConfiguration.model_validate(yaml.safe_load(text))
    chosen = options.MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
    merge.run_merge(parsed, str(out), chosen)


def several(path: Path, out: Path) -> None:
    """Carry a file of several documents out."""
    program("mergekit-multi", path, "-I", f"{out}.between", "--out-path", out, "--no-copy-tokenizer")


def program(name: str, *words: object) -> None:
    """Carry a document out by one of mergekit's own programs."""
    command = [str(Path(sys.executable).with_name(name)), *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "failed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
