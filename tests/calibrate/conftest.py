"""Tiny models of several families, with the zoo's tokenizer, and recipes that run them on text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions

ZOO = Path(__file__).parents[2] / "recipes" / "zoo"
VOCABULARY = 1024

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "tied": SIZES | {"tie_word_embeddings": True},
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "mistral": SIZES | {"sliding_window": 8},
    "gemma2": SIZES | {"head_dim": 8, "sliding_window": 8},
    "falcon": SIZES,
    "gpt2": GPT2,
    "mixtral": SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "rwkv": SIZES | {"attention_hidden_size": 32},
}


@dataclass(frozen=True)
class Model:
    """A saved model: transformers' own, and what a plan would know of it."""

    folder: Path
    whole: Any
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]

    @property
    def known(self) -> Any:
        """What a skeleton is made from."""
        return SimpleNamespace(step="x", config=self.config, nodes=self.tensors)


def save(kind: str, folder: Path, **settings: Any) -> Model:
    """Save a model of a family, with random weights that its blocks are sensitive to."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    given = {**TOKENS, **KINDS[kind], **settings}
    config = AutoConfig.for_model("llama" if kind == "tied" else kind, **given)
    whole = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    whole.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ZOO / "base" / file, folder / file)
    written = json.loads((folder / "config.json").read_text())
    return Model(folder, whole, load_file(folder / "model.safetensors"), written)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Return a saved model of a family; each is made once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(kind: str) -> Model:
        if kind not in made:
            made[kind] = save(kind, folder / kind)
        return made[kind]

    return get


TOYS = '''
import surgery
from surgery import Need, Split


class Factor(surgery.Params):
    """Parameters of cal.seen."""

    factor: float = 1.0
    """What the result is multiplied by."""


@surgery.op("cal.seen", split=Split.ROW, params=Factor, models=1, vectors="skip", needs=[Need.SQUARES, Need.TOKENS])
def seen(x, p):
    """Multiply each column by the root mean square of its input."""
    mean = x.statistics[Need.SQUARES] / x.statistics[Need.TOKENS].clamp(min=1)
    return x.models[0] * (p.factor * mean.sqrt()).to(x.models[0])


@surgery.op("cal.whole", split=Split.TENSOR, models=1, vectors="skip", needs=[Need.SQUARES, Need.TOKENS])
def whole(x, p):
    """Do what cal.seen does, on a whole tensor."""
    return seen(x, Factor())
'''


@dataclass
class Bench:
    """A folder with a text, models and a plugin, and runs of recipes in it."""

    folder: Path
    settings: dict[str, Any]
    models: list[str]

    def model(self, name: str, tensors: dict[str, torch.Tensor], like: Model) -> None:
        """Save a model of other weights."""
        shutil.copytree(like.folder, self.folder / name)
        self.models.append(name)
        save_file(tensors, self.folder / name / "model.safetensors", metadata={"format": "pt"})

    def document(self, steps: dict[str, Any], to: str = "out", **top: Any) -> dict[str, Any]:
        return {
            "surgery": 1,
            "models": {name: f"./{name}" for name in self.models},
            "calibration": self.settings,
            "steps": steps,
            "output": {"model": next(reversed(steps)), "to": f"./{to}"},
            **top,
        }

    def recipe(self, steps: dict[str, Any], **more: Any) -> surgery.LoadedRecipe:
        text = yaml.safe_dump(self.document(steps, **more), sort_keys=False)
        return surgery.loads(text, folder=self.folder, plugins=[self.folder / "toys.py"])

    def run(
        self, steps: dict[str, Any], options: RunOptions | None = None, to: str = "out", **more: Any
    ) -> Any:
        """Run a recipe; return the tensors of its output."""
        self.recipe(steps, to=to, **more).run(options or RunOptions(device="cpu", threads=2, force=True))
        return load_file(self.folder / to / "model.safetensors")

    def data(self, to: str) -> bytes:
        """Return the bytes of an output's weights."""
        return (self.folder / to / "model.safetensors").read_bytes()


@pytest.fixture
def bench(tmp_path: Path, models: Callable[[str], Model]) -> Bench:
    """A bench with a Llama as `base`, and 6 samples of 24 tokens."""
    shutil.copytree(models("llama").folder, tmp_path / "base")
    (tmp_path / "toys.py").write_text(TOYS)
    text = (ZOO / "heldout" / "prose.txt").read_text("utf-8")[:4000]
    (tmp_path / "text.txt").write_text(text, "utf-8")
    return Bench(tmp_path, {"text": "text.txt", "samples": 6, "length": 24}, ["base"])


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """What results are compared with is computed as the engine does: in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
