"""What the three programs share: options, the folder of results, and how a run ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from checkpoints import write_json
from models import add_work
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


def add_common(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--work`, `--cores` and `--name`."""
    add_work(parser)
    parser.add_argument("--cores", type=int, default=2, help="cores that everything is kept on (2)")
    parser.add_argument("--name", default=name, help=f"results go to benchmarks/results/NAME.json ({name})")


def finish(name: str, tables: Iterable[Table], missed: list[str], record: dict[str, Any]) -> None:
    """Print the tables, write the record, exit with 1 if a target was missed."""
    console = Console()
    for table in tables:
        console.print(table)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", {"name": name, **record, "missed": missed})
    for words in missed:
        console.print(f"missed: {words}")
    sys.exit(1 if missed else 0)
