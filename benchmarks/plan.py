"""Time and memory of `surgery plan` on two mixture-of-experts checkpoints of 671 billion parameters.

    python benchmarks/plan.py [--work DIR]

The model is DeepSeek-V3's in shape and size, in bfloat16; it has 512 experts a layer, each half as wide, instead
of 256, and so as many tensors as the original has with the scales of its float8 weights: about 90,000. The
checkpoints are headers only: every shard has its real header and its real size, and a hole where the weights
would be, so that 163 shards of 8 GB take 20 MB of disk. A plan that read weights would have 2.7 TB of zeros to get
through. The recipe names no output folder: the disk need not have room for the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
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
EXPERTS, WIDTH, SHARED = 512, 1024, 2048
Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 1536, 512, 128, 64, 128
SHARDS = 163
TARGET_SECONDS, TARGET_BYTES = 30.0, 1_000_000_000
MIB = 1 << 20
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": HIDDEN,
    "intermediate_size": DENSE,
    "moe_intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "first_k_dense_replace": DENSE_LAYERS,
    "moe_layer_freq": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": SHARED // WIDTH,
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


def main() -> None:
    """Make the headers, time the plan, report."""
    parser = argparse.ArgumentParser(description="Time and memory of surgery plan on two 671 B checkpoints.")
    add_common(parser, name="plan")
    args = parser.parse_args()
    machine = describe(pin(args.cores))
    specs = list(_tensors())
    folders = {name: _make(specs, args.work / "models" / "moe-671b" / name) for name in "ab"}
    recipe = args.work / "plan-671b.yaml"
    recipe.write_text(surgery_recipe("linear", folders), encoding="utf-8")
    usage = watch(surgery("plan", str(recipe)), args.work)
    if usage.returncode:
        raise SystemExit(f"surgery plan failed with exit code {usage.returncode}:\n{usage.stderr[-4000:]}")
    parameters = sum(spec.elements for spec in specs)
    record = {
        "machine": machine,
        "settings": {"tensors_each": len(specs), "parameters_each": parameters, "shards_each": SHARDS},
        "seconds": round(usage.seconds, 2),
        "peak_resident_mib": round(usage.peak_resident / MIB),
        "peak_anonymous_mib": round(usage.peak_anonymous / MIB),
    }
    missed = _missed(usage.seconds, usage.peak_resident)
    finish(args.name, [_table(record, len(specs), parameters)], missed, record)


def _tensors() -> Iterator[Spec]:
    """Yield every tensor of the model."""
    yield _spec("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield _spec(f"{prefix}input_layernorm.weight", HIDDEN)
        yield from _attention(f"{prefix}self_attn.")
        yield _spec(f"{prefix}post_attention_layernorm.weight", HIDDEN)
        yield from _mlp(f"{prefix}mlp.", layer)
    yield _spec("model.norm.weight", HIDDEN)
    yield _spec("lm_head.weight", VOCABULARY, HIDDEN)


def _attention(prefix: str) -> Iterator[Spec]:
    yield _spec(f"{prefix}q_a_proj.weight", Q_RANK, HIDDEN)
    yield _spec(f"{prefix}q_a_layernorm.weight", Q_RANK)
    yield _spec(f"{prefix}q_b_proj.weight", HEADS * (NOPE + ROPE), Q_RANK)
    yield _spec(f"{prefix}kv_a_proj_with_mqa.weight", KV_RANK + ROPE, HIDDEN)
    yield _spec(f"{prefix}kv_a_layernorm.weight", KV_RANK)
    yield _spec(f"{prefix}kv_b_proj.weight", HEADS * (NOPE + VALUE), KV_RANK)
    yield _spec(f"{prefix}o_proj.weight", HIDDEN, HEADS * VALUE)


def _mlp(prefix: str, layer: int) -> Iterator[Spec]:
    if layer < DENSE_LAYERS:
        yield from _expert(prefix, DENSE)
        return
    yield _spec(f"{prefix}gate.weight", EXPERTS, HIDDEN)
    yield Spec(f"{prefix}gate.e_score_correction_bias", "F32", (EXPERTS,))
    for expert in range(EXPERTS):
        yield from _expert(f"{prefix}experts.{expert}.", WIDTH)
    yield from _expert(f"{prefix}shared_experts.", SHARED)


def _expert(prefix: str, width: int) -> Iterator[Spec]:
    yield _spec(f"{prefix}gate_proj.weight", width, HIDDEN)
    yield _spec(f"{prefix}up_proj.weight", width, HIDDEN)
    yield _spec(f"{prefix}down_proj.weight", HIDDEN, width)


def _spec(name: str, *shape: int) -> Spec:
    return Spec(name, "BF16", shape)


def _make(specs: list[Spec], folder: Path) -> Path:
    """Return a folder of shards that are headers and holes, made where it is not there yet."""
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    cut = _cut(specs)
    files = {shard_name(i, len(cut)): specs for i, specs in enumerate(cut, 1)}
    for name, held in files.items():
        head = header(held)
        (partial / name).write_bytes(head)
        os.truncate(partial / name, len(head) + sum(spec.nbytes for spec in held))
    write_sidecars(partial, files, CONFIG)
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
