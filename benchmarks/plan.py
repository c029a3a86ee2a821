"""Time and memory of `surgery plan` on two mixture-of-experts checkpoints of 671 billion parameters.

    python benchmarks/plan.py [--work DIR] [--format bf16|fp8]

The checkpoints are headers only: every shard has its real header and its real size, and a hole where the
weights would be, so that 163 shards of 8 GB take 20 MB of disk. Planning must read no weight: here it would
have 2.7 TB of zeros to get through.

`fp8` is DeepSeek-V3's own layout: 256 experts a layer, float8 weights, each with its `weight_scale_inv`.
`bf16` has as many parameters and as many tensors without scales: 512 experts a layer, each half as wide.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Spec, header, shard_name, shards, write_sidecars
from engines import surgery, surgery_recipe
from machine import describe, pin
from measure import watch
from options import add_common, finish
from rich.table import Table

HIDDEN, DENSE, VOCABULARY = 7168, 18432, 129280
LAYERS, DENSE_LAYERS, HEADS = 61, 3, 128
Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 1536, 512, 128, 64, 128
BLOCK = 128
SHARDS = 163
TARGET_SECONDS, TARGET_BYTES = 30.0, 1_000_000_000
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Experts:
    """How the parameters are stored: experts a layer, their width, float8 with scales or bfloat16."""

    count: int
    width: int
    fp8: bool

    def tensors(self) -> Iterator[Spec]:
        """Yield every tensor of the model."""
        yield Spec("model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN))
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}."
            yield from self._attention(f"{prefix}self_attn.")
            yield from self._mlp(f"{prefix}mlp.", layer)
            yield Spec(f"{prefix}input_layernorm.weight", "BF16", (HIDDEN,))
            yield Spec(f"{prefix}post_attention_layernorm.weight", "BF16", (HIDDEN,))
        yield Spec("model.norm.weight", "BF16", (HIDDEN,))
        yield Spec("lm_head.weight", "BF16", (VOCABULARY, HIDDEN))

    def _attention(self, prefix: str) -> Iterator[Spec]:
        yield from self._matrix(f"{prefix}q_a_proj", Q_RANK, HIDDEN)
        yield Spec(f"{prefix}q_a_layernorm.weight", "BF16", (Q_RANK,))
        yield from self._matrix(f"{prefix}q_b_proj", HEADS * (NOPE + ROPE), Q_RANK)
        yield from self._matrix(f"{prefix}kv_a_proj_with_mqa", KV_RANK + ROPE, HIDDEN)
        yield Spec(f"{prefix}kv_a_layernorm.weight", "BF16", (KV_RANK,))
        yield from self._matrix(f"{prefix}kv_b_proj", HEADS * (NOPE + VALUE), KV_RANK)
        yield from self._matrix(f"{prefix}o_proj", HIDDEN, HEADS * VALUE)

    def _mlp(self, prefix: str, layer: int) -> Iterator[Spec]:
        if layer < DENSE_LAYERS:
            yield from self._expert(prefix, DENSE)
            return
        yield Spec(f"{prefix}gate.weight", "BF16", (self.count, HIDDEN))
        yield Spec(f"{prefix}gate.e_score_correction_bias", "F32", (self.count,))
        for expert in range(self.count):
            yield from self._expert(f"{prefix}experts.{expert}.", self.width)
        yield from self._expert(f"{prefix}shared_experts.", 2048)

    def _expert(self, prefix: str, width: int) -> Iterator[Spec]:
        yield from self._matrix(f"{prefix}gate_proj", width, HIDDEN)
        yield from self._matrix(f"{prefix}up_proj", width, HIDDEN)
        yield from self._matrix(f"{prefix}down_proj", HIDDEN, width)

    def _matrix(self, prefix: str, rows: int, columns: int) -> Iterator[Spec]:
        yield Spec(f"{prefix}.weight", "F8_E4M3" if self.fp8 else "BF16", (rows, columns))
        if self.fp8:
            yield Spec(f"{prefix}.weight_scale_inv", "F32", (-(-rows // BLOCK), -(-columns // BLOCK)))

    def config(self) -> dict[str, Any]:
        """Return the model's `config.json`."""
        config: dict[str, Any] = {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": HIDDEN,
            "intermediate_size": DENSE,
            "moe_intermediate_size": self.width,
            "num_hidden_layers": LAYERS,
            "first_k_dense_replace": DENSE_LAYERS,
            "moe_layer_freq": 1,
            "n_routed_experts": self.count,
            "n_shared_experts": 2048 // self.width,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "q_lora_rank": Q_RANK,
            "kv_lora_rank": KV_RANK,
            "qk_nope_head_dim": NOPE,
            "qk_rope_head_dim": ROPE,
            "v_head_dim": VALUE,
            "vocab_size": VOCABULARY,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }
        if self.fp8:
            config["quantization_config"] = {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [BLOCK, BLOCK],
            }
        return config


FORMATS = {"bf16": Experts(512, 1024, fp8=False), "fp8": Experts(256, 2048, fp8=True)}


def main() -> None:
    """Make the headers, time the plan, report."""
    parser = argparse.ArgumentParser(description="Time and memory of surgery plan on two 671 B checkpoints.")
    add_common(parser, name="plan")
    parser.add_argument("--format", default="bf16", choices=FORMATS, help="how the weights are stored (bf16)")
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    experts = FORMATS[args.format]
    folders = {name: _make(experts, args.work / "models" / f"moe-671b-{args.format}" / name) for name in "ab"}
    recipe = args.work / "plan-671b.yaml"
    recipe.write_text(surgery_recipe("linear", folders, args.work / "out" / "plan"), encoding="utf-8")
    usage = watch(surgery("plan", str(recipe)), args.work)
    if usage.returncode:
        raise SystemExit(f"surgery plan failed with exit code {usage.returncode}:\n{usage.stderr[-4000:]}")
    tensors = sum(1 for _ in experts.tensors())
    parameters = sum(spec.elements for spec in experts.tensors() if "scale_inv" not in spec.name)
    record = {
        "machine": machine,
        "settings": {"format": args.format, "tensors": tensors, "parameters": parameters, "shards": SHARDS},
        "seconds": round(usage.seconds, 2),
        "peak_resident_mib": round(usage.peak_resident / MIB),
    }
    missed = _missed(usage.seconds, usage.peak_resident)
    finish(args.name, [_table(record, tensors, parameters)], missed, record)


def _make(experts: Experts, folder: Path) -> Path:
    """Return a folder of shards that are headers and holes, made where it is not there yet."""
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    cut = _cut(list(experts.tensors()))
    files = {shard_name(i, len(cut)): specs for i, specs in enumerate(cut, 1)}
    for name, specs in files.items():
        head = header(specs)
        (partial / name).write_bytes(head)
        os.truncate(partial / name, len(head) + sum(spec.nbytes for spec in specs))
    write_sidecars(partial, files, experts.config())
    os.rename(partial, folder)
    return folder


def _cut(specs: list[Spec]) -> list[list[Spec]]:
    """Cut the tensors into SHARDS shards of about the same size."""
    limit = sum(spec.nbytes for spec in specs) // SHARDS
    while len(cut := shards(specs, limit)) > SHARDS:
        limit += limit // 200  # each shard ends a little below the limit: the first guess gives too many
    return cut


def _missed(seconds: float, peak: int) -> list[str]:
    missed = []
    if seconds > TARGET_SECONDS:
        missed.append(f"{seconds:.1f} s, wanted {TARGET_SECONDS:.0f} at most")
    if peak > TARGET_BYTES:
        missed.append(f"{peak / 1e9:.2f} GB resident, wanted {TARGET_BYTES / 1e9:.0f} GB at most")
    return missed


def _table(record: dict[str, Any], tensors: int, parameters: int) -> Table:
    columns = ("tensors", "parameters", "seconds", "resident MiB")
    grid = Table(*columns, title="surgery plan on two checkpoints, each")
    counts = f"{tensors:,}", f"{parameters / 1e9:.0f} billion"
    grid.add_row(*counts, f"{record['seconds']:.1f}", str(record["peak_resident_mib"]))
    return grid


if __name__ == "__main__":
    main()
