"""Train the zoo: a base model, three full fine-tunes of it and a LoRA adapter.

    python recipes/zoo/train.py --debian DIR

writes base/, code/, prose/, math/, verse-lora/ and heldout/ beside this file, and takes minutes on two cores.
All arithmetic is float32 with fixed seeds; the weights are rounded to bfloat16 as they are saved, and the
losses printed at the end are those of what was saved.
"""

import argparse
import copy
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import evaluate
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
VOCABULARY = 1024
CONTEXT = 256
# Windows a step. The base sees little math and verse, so that there is much for fine-tuning to teach.
MIXTURE = {"code": 3, "prose": 3, "math": 1, "verse": 1}
BATCH = sum(MIXTURE.values())
PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
BEGIN_ID = 1  # special tokens are numbered first, in this order
SHARDED = {"prose": "1MB"}


@dataclass(frozen=True, slots=True)
class Run:
    """How long and how hard to train: steps of AdamW under a cosine from `rate` to `floor` times it."""

    steps: int
    rate: float
    seed: int
    floor: float = 0.1
    warmup: int = 20


# The base stops early and at its full rate: some of what the fine-tunes learn as theirs falls is then common to
# all three, and a merge adds it up. They are gentle, so that the rest does not collide.
BASE = Run(steps=600, rate=3e-3, seed=1, floor=1.0)
FINE_TUNES = {
    "code": Run(steps=200, rate=3e-4, seed=2),
    "prose": Run(steps=200, rate=3e-4, seed=3),
    "math": Run(steps=200, rate=3e-4, seed=4),
}
ADAPTER = Run(steps=160, rate=2e-3, seed=5)


def main() -> None:
    """Train everything and print the losses of what was saved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debian", type=Path, default=Path("/"), help="root that holds the Debian texts")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write the models")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    evaluate.quieten()
    splits = corpus.load(arguments.debian)
    save_held_out(splits, arguments.out / "heldout")
    began = time.monotonic()
    train_all(splits, arguments.out)
    print(f"trained in {time.monotonic() - began:.0f} s")
    evaluate.main([str(arguments.out / name) for name in ("base", *FINE_TUNES, "verse-lora")])


def train_all(splits: dict[str, corpus.Split], out: Path) -> None:
    """Train the base on all domains, then every child from the base as it was saved."""
    tokenizer = train_tokenizer(splits)
    streams = {name: encode(tokenizer, split.train) for name, split in splits.items()}
    base = build(tokenizer)
    train(base, [streams[name] for name, rows in MIXTURE.items() for _ in range(rows)], BASE)
    save(base, tokenizer, out / "base")
    for name, run in FINE_TUNES.items():
        child = reload(out / "base")
        train(child, [streams[name]], run)
        save(child, tokenizer, out / name, SHARDED.get(name, "1GB"))
    train_adapter(reload(out / "base"), streams["verse"], out / "verse-lora")


def train_tokenizer(splits: dict[str, corpus.Split]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE, digits one by one, trained on equal shares of every domain."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    share = min(sum(map(len, split.train)) for split in splits.values())
    tokenizer.train_from_iterator((sample(split.train, share) for split in splits.values()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # upstream's constructor has no types
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )


def sample(documents: list[str], size: int) -> str:
    """Return about `size` characters of whole documents, drawn by seed."""
    shuffled = random.Random(0).sample(documents, len(documents))
    return "".join(shuffled)[:size]


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    """Return all documents as one stream of token ids, each closed by the end token."""
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in [*ids, tokenizer.eos_token_id]])


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained base: six Llama blocks of width 128, four query and two key heads of 32."""
    torch.manual_seed(BASE.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train(model: torch.nn.Module, streams: list[torch.Tensor], run: Run) -> None:
    """Train in place on windows drawn in turn from the streams."""
    generator = torch.Generator().manual_seed(run.seed)
    torch.manual_seed(run.seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run.rate, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(run, step)
        batch = windows(streams, generator)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == run.steps - 1:
            print(f"step {step:4d}: {loss.item():.3f} nats/token", flush=True)


def rate(run: Run, step: int) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine down to the floor."""
    if step < run.warmup:
        return run.rate * (step + 1) / run.warmup
    done = (step - run.warmup) / (run.steps - run.warmup)
    return run.rate * (run.floor + (1 - run.floor) * (1 + math.cos(math.pi * done)) / 2)


def windows(streams: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return a batch of windows (BATCH, CONTEXT), each the begin token and a random stretch of a stream."""
    rows = []
    for row in range(BATCH):
        stream = streams[row % len(streams)]
        start = int(torch.randint(len(stream) - CONTEXT, (), generator=generator))
        rows.append(torch.cat([torch.tensor([BEGIN_ID]), stream[start : start + CONTEXT - 1]]))
    return torch.stack(rows)


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, shard: str = "1GB"
) -> None:
    """Write a checkpoint folder in bfloat16, leaving the model itself as it is."""
    rounded: Any = copy.deepcopy(model)
    rounded.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 4 knows no other name for it
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)


def reload(folder: Path) -> LlamaForCausalLM:
    """Return a saved model in float32, so that a child starts from exactly what others will load."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def train_adapter(base: LlamaForCausalLM, stream: torch.Tensor, folder: Path) -> None:
    """Train a LoRA adapter on every linear layer of the blocks, and save it as peft does."""
    torch.manual_seed(ADAPTER.seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    train(model, [stream], ADAPTER)
    written: Any = model.peft_config["default"]
    written.base_model_name_or_path = "../base"
    written.target_modules = sorted(written.target_modules)  # a set has no order to repeat
    model.save_pretrained(str(folder))
    (folder / "adapter_model.safetensors").chmod(0o644)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card


def save_held_out(splits: dict[str, corpus.Split], folder: Path) -> None:
    """Write the held-out sample of every domain."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        (folder / f"{name}.txt").write_text(split.held_out, encoding="utf-8")


if __name__ == "__main__":
    main()
