"""Adapters made of plain tensors, as peft stores them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.open import open_checkpoint

PEFT = "base_model.model."


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter: its tensors by name after PEFT's prefix, and what its config says beside rank 1, alpha 2."""

    def write(tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        said = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, **config}
        (folder / "adapter_config.json").write_text(json.dumps(said))
        named = {PEFT + name: tensor.clone() for name, tensor in tensors.items()}
        save_file(named, folder / "adapter_model.safetensors")
        return folder

    return write


def read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Return a whole tensor."""
    from surgery.math.convert import as_tensor

    spec = checkpoint.tensors[name]
    raw = bytearray(spec.nbytes)
    checkpoint.read_into(name, 0, memoryview(raw))
    return as_tensor(raw, spec.dtype).view(spec.shape)


class Tiny(nn.Module):
    """One module of every kind that adapters work on."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.q_proj = nn.Linear(6, 8)
        self.v_proj = nn.Linear(8, 6, bias=False)
        self.c_attn = Conv1D(9, 6)
        self.conv = nn.Conv2d(3, 4, (2, 3))
        self.square = nn.Conv2d(2, 4, 2)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)


def compare_with_peft(folder: Path, config: Any) -> None:
    """Fill an adapter with random numbers, save it, and compare our fold with peft's."""
    from peft import get_peft_model

    from surgery_hf.adapters import fold

    torch.manual_seed(5)
    base = Tiny()
    save_file({name: w.clone() for name, w in base.state_dict().items()}, folder / "base.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it thinks of tiny models; not ours to mend
        expected = _filled_and_merged(get_peft_model(base, config), folder / "adapter")
    found, before = fold(folder / "adapter", open_checkpoint("base.safetensors", folder)), base_of(folder)
    assert set(found.tensors) == set(expected)
    changed = 0
    for name, weight in expected.items():
        got = read(found, name)
        # float32 on both sides, sums of at most 18 products: 4 ulp of the largest number
        torch.testing.assert_close(got, weight, rtol=0, atol=5e-7 * float(weight.abs().max()))
        changed += not torch.equal(got, before[name])
    assert changed >= 1


def base_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the base that was compared."""
    return load_file(folder / "base.safetensors")


def _filled_and_merged(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(
                    torch.rand_like(parameter) + 0.5 if "magnitude" in name else torch.randn_like(parameter)
                )
    model.save_pretrained(folder)
    merged: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return merged
