"""Make virtual environments for other programs, once: their packages and ours never meet in one interpreter.

    python benchmarks/environment.py --work DIR [mergekit] [llmcompressor]

mergekit is under the LGPL: it is run as a program of its own (peer.py, in its environment) and compared by its outputs
and the clock; so is llm-compressor (peer_quantize.py). torch is installed first and kept by a constraint, so that all
engines compute with the same release; on Linux set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to an index that has its CPU
build, unless gigabytes of CUDA libraries are welcome.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

from models import add_work

TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment: its folder, what it is made for, and what else must have which version."""

    folder: str
    package: str
    pins: tuple[str, ...] = ()


MERGEKIT = Environment("mergekit-0.1.5", "mergekit==0.1.5")
LLMCOMPRESSOR = Environment(
    "llmcompressor-0.14.0.1",
    "llmcompressor==0.14.0.1",
    ("transformers==5.17.0", "compressed-tensors==0.19.0"),
)
ENVIRONMENTS = {"mergekit": MERGEKIT, "llmcompressor": LLMCOMPRESSOR}


def make_environment(work: Path, wanted: Environment) -> Path:
    """Return an environment's interpreter; the environment is made where it is not there yet."""
    folder = work / wanted.folder
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        print(f"installing {wanted.package} with {TORCH}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for pin in (TORCH, *wanted.pins)), encoding="utf-8")
        for requirement in (TORCH, wanted.package):
            install(python, "--constraint", str(constraints), requirement)
        done.touch()
    return python


def install(python: str | Path, *arguments: str) -> None:
    """Install with an interpreter's pip, from wherever pip is set to look."""
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def main() -> None:
    """Make environments and say which versions they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_work(parser)
    parser.add_argument("names", nargs="*", default=list(ENVIRONMENTS), help=", ".join(ENVIRONMENTS))
    args = parser.parse_args()
    for name in args.names:
        python = make_environment(args.work, ENVIRONMENTS[name])
        subprocess.run([str(python), "-m", "pip", "freeze"], check=True)


if __name__ == "__main__":
    main()
