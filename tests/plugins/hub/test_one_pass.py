"""Merge, prune, quantize, publish: recipes/17, with the Hub as its destination, as one pass."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

import surgery
from surgery_hub.client import endpoint
from tests.hub.server import LoopbackHub

transformers = pytest.importorskip("transformers")

RECIPES = Path(__file__).parents[3] / "recipes"
MODELS = ("base", "code", "math", "prose")
_watched: list[set[str]] = []


def _audit(event: str, args: tuple[object, ...]) -> None:
    if _watched and event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        _watched[-1].add(str(args[0]))


@contextmanager
def files_opened_for_writing() -> Iterator[set[str]]:
    """Collect the files that this process opens for writing. An audit hook stays for good, so it is added once."""
    if not getattr(sys, "_surgery_audited", False):
        sys.addaudithook(_audit)
        sys._surgery_audited = True  # type: ignore[attr-defined]
    _watched.append(set())
    try:
        yield _watched[-1]
    finally:
        _watched.pop()


def test_one_streamed_pass_from_three_fine_tunes_to_a_published_model(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    shutil.copytree(RECIPES / "zoo", tmp_path / "zoo", ignore=shutil.ignore_patterns("*.py", "heldout"))
    text = (RECIPES / "17-one-pass.yaml").read_text()
    assert "to: ./out/lean-int4" in text
    published = surgery.loads(text.replace("./out/lean-int4", "hub:me/lean-int4"), folder=tmp_path)
    with files_opened_for_writing() as written:
        report = published.run(surgery.RunOptions(device="cpu", threads=2))

    weights = [file for name in MODELS for file in (tmp_path / "zoo" / name).glob("*.safetensors")]
    assert report.bytes_read <= 2 * sum(file.stat().st_size for file in weights)
    kept = {Path(name).name for name in written if name.endswith(".safetensors")}
    assert kept == {"model.safetensors"}, "one weight file is written, the published one"

    folder = Path(snapshot_download("me/lean-int4", endpoint=endpoint()))
    surgery.loads(text, folder=tmp_path).run(surgery.RunOptions(device="cpu"))
    local = load_file(tmp_path / "out" / "lean-int4" / "model.safetensors")
    assert (folder / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "lean-int4" / "model.safetensors"
    ).read_bytes()
    packed = local["model.layers.0.mlp.up_proj.weight_packed"]
    codes = torch.stack([(packed >> shift) & 15 for shift in range(0, 32, 4)], -1) - 8
    assert int((codes.view(-1, 4) != 0).sum(1).max()) <= 2, (
        "of every four neighbours at most two are not zero"
    )

    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("def main(", return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert made.shape[1] == prompt.input_ids.shape[1] + 8
