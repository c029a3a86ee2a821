"""Measure models on the zoo's held-out text: mean loss in nats per byte, a row a model, a column a domain.

    python recipes/zoo/evaluate.py DIR [DIR ...] [--json FILE]

DIR is a checkpoint folder as transformers writes it or a LoRA folder as peft does. Loss per byte, not per
token, so that models with different tokenizers compare. `mean` is over code, prose and math, the texts of
the three full fine-tunes; verse is the adapter's. Each column's lowest figure has a star.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELD_OUT = Path(__file__).parent / "heldout"
MERGED = ("code", "prose", "math")
ADAPTED = ("verse",)
COLUMNS = (*MERGED, "mean", *ADAPTED)
WINDOW = 256
BATCH = 32

Losses = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the folders named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="DIR", help="a checkpoint or LoRA folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the losses here")
    options = parser.parse_args(arguments)
    quieten()
    table = {name: measure(Path(name)) for name in options.models}
    if options.json:
        options.json.write_text(json.dumps({"unit": "nats/byte", "models": table}, indent=2) + "\n")
    show(table)


def quieten() -> None:
    """Keep the libraries' notes and progress bars out of the table."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    library: Any = logging  # its functions carry no types
    library.set_verbosity_error()
    library.disable_progress_bar()


def measure(folder: Path) -> Losses:
    """Return a model's loss in nats per byte on every domain, and the mean of the merged ones."""
    model, tokenizer = open_model(folder)
    losses = {
        domain: loss(model, tokenizer, (HELD_OUT / f"{domain}.txt").read_text("utf-8"))
        for domain in (*MERGED, *ADAPTED)
    }
    losses["mean"] = sum(losses[domain] for domain in MERGED) / len(MERGED)
    return {column: round(losses[column], 4) for column in COLUMNS}


def open_model(folder: Path) -> tuple[Any, Any]:
    """Return the model of a folder in float32 with its tokenizer; an adapter comes with its base."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = folder / "adapter_config.json"
    checkpoint = folder
    if adapter.is_file():
        # peft reads a relative base against the working directory; the adapter means its own folder
        checkpoint = folder / json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
    if not (checkpoint / "config.json").is_file():
        sys.exit(f"evaluate: `{checkpoint}` has no config.json; name a folder with a model or an adapter")
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if adapter.is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def loss(model: Any, tokenizer: Any, text: str) -> float:
    """Return the mean loss in nats per byte over fixed windows, each opened by the begin token."""
    import torch

    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    step = WINDOW - 1
    rows = [[tokenizer.bos_token_id, *ids[at : at + step]] for at in range(0, len(ids), step)]
    nats = 0.0
    with torch.inference_mode():
        for at in range(0, len(rows) - 1, BATCH):
            nats += surprise(model, torch.tensor(rows[at : min(at + BATCH, len(rows) - 1)]))
        nats += surprise(model, torch.tensor(rows[-1:]))  # the last window is shorter
    return nats / len(text.encode())


def surprise(model: Any, rows: Any) -> float:
    """Return the summed loss in nats of all tokens of rows (batch, length) but each row's first."""
    import torch

    logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    return float(
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
    )


def show(table: dict[str, Losses]) -> None:
    """Print the losses, the best of each column in bold with a star."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    best = {column: min(losses[column] for losses in table.values()) for column in COLUMNS}
    title = "loss on held-out text, nats per byte (lower is better)"
    printed = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    printed.add_column("model", overflow="fold")
    for column in COLUMNS:
        printed.add_column(column, justify="right", no_wrap=True)
    for name, losses in table.items():
        marks = {column: losses[column] == best[column] for column in COLUMNS}
        cells = (f"[bold]{losses[c]:.3f} *[/]" if marks[c] else f"{losses[c]:.3f}  " for c in COLUMNS)
        printed.add_row(name, *cells)
    Console().print(printed)
    Console().print("* best of its column; mean: of code, prose and math")


if __name__ == "__main__":
    main()
