"""A tiny Llama whose 32 tokens are single letters, as evaluators are told of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from surgery.tensors import TensorSpec
from surgery.testing import tiny_llama
from surgery.trials import Subject

LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def save_tokenizer(folder: Path, *, begin: bool) -> dict[str, Path]:
    vocabulary = {"<u>": 0, "<s>": 1, "</s>": 2, **{letter: i for i, letter in enumerate(LETTERS, start=3)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<u>"}
    config |= {"bos_token": "<s>"} if begin else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return {name: folder / name for name in ("tokenizer.json", "tokenizer_config.json")}


@pytest.fixture
def subject(tmp_path: Path, request: pytest.FixtureRequest) -> Subject:
    """Its tensors are `tensors` of the fixture below; marks may say `begin=False`."""
    _, config = tiny_llama()
    specs = {name: TensorSpec(name, tuple(t.shape), "F32") for name, t in tiny_llama()[0].items()}
    begin = getattr(request, "param", True)
    return Subject(config, save_tokenizer(tmp_path, begin=begin), specs, tmp_path)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return tiny_llama(seed=1)[0]
