"""Make mergekit's own virtual environment, once: its packages and ours never meet in one interpreter.

    python benchmarks/environment.py --work DIR

mergekit is under the LGPL: it is run as a program of its own (peer.py, in this environment) and compared by
its outputs and the clock. torch is installed first and kept by a constraint, so that both engines compute
with the same release; on Linux set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to an index that has its CPU build,
unless gigabytes of CUDA libraries are welcome.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import venv
from pathlib import Path

from models import add_work

MERGEKIT = "mergekit==0.1.5"
TORCH = "torch==2.13.0"


def make_environment(work: Path) -> Path:
    """Return mergekit's interpreter; its environment is made where it is not there yet."""
    folder = work / "mergekit-0.1.5"
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        print(f"installing {MERGEKIT} with {TORCH}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        constraints = folder / "constraints.txt"
        constraints.write_text(f"{TORCH}\n", encoding="utf-8")
        for requirement in (TORCH, MERGEKIT):
            _install(python, constraints, requirement)
        done.touch()
    return python


def _install(python: Path, constraints: Path, requirement: str) -> None:
    """Install one requirement, from wherever pip is set to look."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), requirement]
    subprocess.run(command, check=True)


def main() -> None:
    """Make the environment and say which versions it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_work(parser)
    python = make_environment(parser.parse_args().work)
    subprocess.run([str(python), "-m", "pip", "freeze"], check=True)


if __name__ == "__main__":
    main()
