"""Adapters made of plain tensors, as peft stores them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.base import Checkpoint

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
