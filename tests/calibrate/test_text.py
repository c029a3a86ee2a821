"""Text becomes stretches of tokens: pieces that do not overlap, chosen by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from surgery import PlanError
from surgery.calibrate.text import chosen, load_tokenizer, stretches


@dataclass
class Letters:
    """A tokenizer whose tokens are characters' codes."""

    bos_token_id: int | None = None

    def __call__(self, text, *, add_special_tokens, verbose):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


def sampled(folder: Path, *texts: str, begin: int | None = None, **settings: int) -> list[str]:
    files = tuple(folder / str(index) for index in range(len(texts)))
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    calibration = SimpleNamespace(step="x", texts=files, settings=SimpleNamespace(**{"seed": 0, **settings}))
    rows = stretches(calibration, Letters(begin))
    assert rows.dtype == torch.int64
    assert rows.shape == (settings["samples"], settings["length"])
    return ["".join(map(chr, row)) for row in rows.tolist()]


def test_pieces_follow_each_other_and_no_file_runs_into_the_next(tmp_path):
    assert sampled(tmp_path, "abcdefgh", "ABCDE", samples=3, length=3) == ["abc", "def", "ABC"]


def test_a_stretch_begins_with_the_tokenizers_begin_token(tmp_path):
    assert sampled(tmp_path, "abcdef", begin=ord(">"), samples=3, length=3) == [">ab", ">cd", ">ef"]


def test_the_seed_chooses_and_the_order_is_the_texts():
    first = chosen(100, 10, 0)
    assert first == chosen(100, 10, 0) == sorted(set(first))
    assert first != chosen(100, 10, 1)
    assert set(chosen(100, 9, 0)) < set(first)
    assert chosen(4, 4, 7) == [0, 1, 2, 3]


def test_every_piece_is_as_likely():
    counts = torch.zeros(10)
    for seed in range(500):
        counts[chosen(10, 3, seed)] += 1
    assert (counts - 150).abs().max() < 50  # five standard deviations


def test_a_text_that_is_too_short_says_how_far_it_goes(tmp_path):
    with pytest.raises(PlanError) as error:
        sampled(tmp_path, "abcdefg", samples=3, length=3)
    assert str(error.value) == (
        "step x: the calibration text is enough for 2 samples of 3 tokens, got `samples: 3`; "
        "add text, or lower `samples` or `length`"
    )


def test_a_broken_tokenizer_is_an_error_that_names_the_step(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        PlanError, match=r"step x: transformers cannot load the model's tokenizer: .*; mend the files"
    ):
        load_tokenizer("x", {"tokenizer.json": tmp_path / "tokenizer.json"})
