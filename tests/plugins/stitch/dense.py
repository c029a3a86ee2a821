"""Small dense models as transformers makes and saves them, for tests of mixtures made of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

import surgery
from surgery import RunOptions
from tests.plugins.stitch.vocabularies import tokenizer

SIZES = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WORDS = {word: i for i, word in enumerate(["<s>", *"abcdefg"])}
IDS = torch.tensor([[1, 5, 2, 7, 3, 3, 6, 4, 0, 2, 1, 7]])
CPU = RunOptions(device="cpu", threads=2, force=True)


@cache
def classes() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def model(kind: str, seed: int = 0, **settings: Any) -> Any:
    """Return a model of random weights, large enough that a wrong one shows."""
    config = classes().AutoConfig.for_model(kind, **{**SIZES, **settings})
    torch.manual_seed(seed)
    made = classes().AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def save(folder: Path, kind: str = "llama", seed: int = 0, **settings: Any) -> Any:
    """Write a model with a tokenizer that cuts text at spaces; return the model."""
    made = model(kind, seed, **settings)
    made.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    return made


def run(folder: Path, step: str, names: str = "a") -> Path:
    """Run a recipe of one step on the models that lie in `folder`; return where the result lies."""
    models = ", ".join(f"{name}: ./{name}" for name in names.split())
    text = f"surgery: 1\nmodels: {{{models}}}\nsteps: {{m: {{{step}}}}}\noutput: {{model: m}}\n"
    surgery.loads(text, folder=folder).run(CPU, out=folder / "out")
    return folder / "out"


def load(folder: Path) -> Any:
    """Return the model that transformers loads; AssertionError if a tensor is missing or left over."""
    made, info = classes().AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return made.eval()


def logits(made: Any) -> torch.Tensor:
    """Return what a model says of the same few tokens."""
    with torch.no_grad():
        found: torch.Tensor = made(IDS).logits
    return found


def assert_same(made: Any, dense: Any) -> None:
    """Hold two models to the same logits; both are about one, and computed in float32."""
    assert (logits(made) - logits(dense)).abs().max() < 2e-5
