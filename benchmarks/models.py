"""Make the checkpoints that the benchmarks merge: Llama-shaped bfloat16 models of seeded random weights.

    python benchmarks/models.py --work DIR          # makes all of them: about 8.5 GB

The base is N(0, 0.02), as Llama is initialised. A fine-tune is the base plus N(0, 0.002), rounded once:
small deltas around a shared base are what TIES trims and votes on, and, as in real fine-tunes, bfloat16
leaves them so few distinct magnitudes that many elements are exactly as large as the threshold. A tensor
depends on the model's and its own name only, never on the shards. One shard at a time is in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Spec, shard_name, shards, write_json, write_sidecars

if TYPE_CHECKING:
    import torch

NAMES = ("base", "a", "b", "c")
BASE_SCALE = 0.02
DELTA_SCALE = 0.002
SHARD_BYTES = 400 << 20
DRAW = 4 << 20  # elements drawn at once in float32: 16 MiB beside the shard


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a Llama model; the name is its folder and changes whenever the weights would."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    def tensors(self) -> Iterator[Spec]:
        """Yield every tensor of the model in the order in which data passes through it."""
        yield self._spec("model.embed_tokens.weight", self.vocabulary, self.hidden)
        for layer in range(self.layers):
            yield from self._layer(f"model.layers.{layer}.")
        yield self._spec("model.norm.weight", self.hidden)
        if not self.tied:
            yield self._spec("lm_head.weight", self.vocabulary, self.hidden)

    def _layer(self, prefix: str) -> Iterator[Spec]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield self._spec(f"{prefix}input_layernorm.weight", self.hidden)
        yield self._spec(f"{prefix}self_attn.q_proj.weight", queries, self.hidden)
        yield self._spec(f"{prefix}self_attn.k_proj.weight", keys, self.hidden)
        yield self._spec(f"{prefix}self_attn.v_proj.weight", keys, self.hidden)
        yield self._spec(f"{prefix}self_attn.o_proj.weight", self.hidden, queries)
        yield self._spec(f"{prefix}post_attention_layernorm.weight", self.hidden)
        yield self._spec(f"{prefix}mlp.gate_proj.weight", self.intermediate, self.hidden)
        yield self._spec(f"{prefix}mlp.up_proj.weight", self.intermediate, self.hidden)
        yield self._spec(f"{prefix}mlp.down_proj.weight", self.hidden, self.intermediate)

    @staticmethod
    def _spec(name: str, *shape: int) -> Spec:
        return Spec(name, "BF16", shape)

    def config(self) -> dict[str, Any]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        }


LLAMA = Shape("llama-1g", 2048, 5632, 8, 32, 4, 64, 32000, tied=False)  # 483 M parameters, 0.97 GB
MEDIUM = Shape("llama-200m", 1024, 2816, 6, 16, 4, 64, 16000, tied=False)  # 100 M parameters, 0.2 GB
EMBEDDING = Shape("embedding-1g", 4096, 1024, 1, 8, 2, 128, 128256, tied=True)  # 1.05 GB of it one tensor
SMALL = Shape("llama-small", 256, 704, 4, 4, 2, 64, 4000, tied=False)  # 10 MB: for trying the programs out
GROUPS = Shape(
    "llama-small-128", 256, 768, 4, 4, 2, 64, 4000, tied=False
)  # all inputs divide into groups of 128
SHAPES = {shape.name: shape for shape in (LLAMA, MEDIUM, EMBEDDING, SMALL, GROUPS)}


def make(shape: Shape, work: Path) -> dict[str, Path]:
    """Return the folder of the base and of each fine-tune, made where it is not there yet."""
    folders = {name: work / "models" / shape.name / name for name in NAMES}
    for name, folder in folders.items():
        if not folder.exists():
            print(f"making {shape.name}/{name}", flush=True)
            _write(shape, name, folder)
    return folders


def _write(shape: Shape, name: str, folder: Path) -> None:
    """Write one model beside its place, then rename it: a folder that exists is complete."""
    import torch
    from safetensors.torch import save_file

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    cut = shards(shape.tensors(), SHARD_BYTES)
    files = {shard_name(i, len(cut)): specs for i, specs in enumerate(cut, 1)}
    for file, specs in files.items():
        tensors = {spec.name: torch.empty(spec.shape, dtype=torch.bfloat16) for spec in specs}
        for spec in specs:
            _fill(tensors[spec.name], spec.name, name)
        save_file(tensors, partial / file, metadata={"format": "pt"})
    write_sidecars(partial, files, shape.config())
    write_json(partial / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    os.rename(partial, folder)


def _fill(tensor: torch.Tensor, name: str, model: str) -> None:
    """Fill a tensor with the base's weights and, unless it is the base, add the fine-tune's deltas."""
    import torch

    base, delta = _generator("base", name), _generator(model, name)
    centre = 1.0 if "norm" in name else 0.0
    for piece in torch.split(tensor.view(-1), DRAW):
        # rounded before the delta is added: the base that was stored is what the fine-tune started from
        values = _normal(piece, base).mul_(BASE_SCALE).add_(centre).to(piece.dtype).float()
        if model != "base":
            values.add_(_normal(piece, delta), alpha=DELTA_SCALE)
        piece.copy_(values)


def _normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.randn(like.shape, generator=generator, dtype=torch.float32)


def _generator(model: str, tensor: str) -> torch.Generator:
    import torch

    digest = hashlib.sha256(f"{model}/{tensor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add `--work`, where models, environments and outputs are kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "surgery-bench"
    words = "folder for models, environments and outputs (~/.cache/surgery-bench)"
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), default=cache, help=words)


def main() -> None:
    """Make the shapes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_work(parser)
    parser.add_argument("shapes", nargs="*", default=["llama-1g", "embedding-1g"], help=", ".join(SHAPES))
    args = parser.parse_args()
    for name in args.shapes:
        make(SHAPES[name], args.work)


if __name__ == "__main__":
    main()
