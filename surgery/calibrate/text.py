"""Calibration text: files become tokens, tokens become stretches of one length, and a seed chooses among them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.sidecars import put_sidecars
from surgery.errors import PlanError
from surgery.math.random import stream_key, uniform
from surgery.ops import File
from surgery.plan.nodes import Calibration


def stretches(calibration: Calibration, tokenizer: Any) -> torch.Tensor:
    """Return the token ids that the model reads, int64 [samples, length].

    Each file is tokenized by itself, without special tokens, and cut into consecutive pieces; what is left at its
    end is not used. A stretch is the tokenizer's begin token, if it has one, and a piece. Of all pieces the `samples`
    with the smallest draws are taken, in the order of the text; draws are counter-based, keyed by the seed.
    Raises PlanError when the text is too short.
    """
    settings = calibration.settings
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    step = settings.length - len(begin)
    pieces = [piece for file in calibration.texts for piece in _pieces(file, tokenizer, step)]
    if len(pieces) < settings.samples:
        raise PlanError(
            f"step {calibration.step}: the calibration text is enough for {len(pieces)} samples of "
            f"{settings.length} tokens, got `samples: {settings.samples}`; add text, or lower `samples` or `length`"
        )
    rows = [begin + pieces[index] for index in chosen(len(pieces), settings.samples, settings.seed)]
    return torch.tensor(rows, dtype=torch.int64)


def chosen(count: int, samples: int, seed: int) -> list[int]:
    """Return which of `count` pieces are taken, in ascending order."""
    draws = uniform(stream_key(seed, "calibration", "text", 0, 1), 0, torch.empty(count))
    return sorted(torch.sort(draws, stable=True).indices[:samples].tolist())


def _pieces(file: Path, tokenizer: Any, step: int) -> list[list[int]]:
    ids = tokenizer(file.read_text("utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    return [ids[at : at + step] for at in range(0, len(ids) - step + 1, step)]


def load_tokenizer(step: str, sidecars: Mapping[str, File]) -> Any:
    """Return the tokenizer that some files are, wherever they lie. Raises PlanError when they are none."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
        put_sidecars(sidecars, Path(folder))
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever a broken file makes of it
            first = str(error).partition("\n")[0]
            raise PlanError(
                f"step {step}: transformers cannot load the model's tokenizer: {first}; "
                "mend the files beside the model"
            ) from error
