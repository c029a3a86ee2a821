"""Quantized checkpoints in memory, made by the libraries whose formats they are, and their tensors read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

from surgery.checkpoint.base import Checkpoint
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery_hf import surgery_decode_checkpoint


def _blocks(weight: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """Return the weight as [scale rows, scale columns, elements that share a scale]."""
    rows, columns = weight.shape
    if args.strategy == "tensor":
        return weight.reshape(1, 1, -1)
    if args.strategy == "channel":
        return weight.reshape(rows, 1, -1)
    if args.strategy == "group":
        return weight.reshape(rows, -1, args.group_size)
    height, width = args.block_structure
    full = torch.nn.functional.pad(weight, (0, -columns % width, 0, -rows % height))
    cells = full.unflatten(0, (-1, height)).unflatten(2, (-1, width)).transpose(1, 2)
    return cells.flatten(2)


@pytest.fixture
def compress() -> Callable[..., tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]]:
    """Compress a weight with the library: its tensors, what the library decompresses, and config.json."""

    def make(form: str, weight: torch.Tensor, dtype: torch.dtype = torch.bfloat16, **settings: Any):
        args = QuantizationArgs(**settings)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        cells = _blocks(weight.float(), args)
        scale, zero = calculate_qparams(cells.amin(-1), cells.amax(-1), args)
        shape = (1,) if args.strategy == "tensor" else scale.shape
        state = {"weight": weight.to(dtype), "weight_scale": scale.to(dtype).reshape(shape)}
        state["weight_zero_point"] = zero.reshape(shape)
        library = BaseCompressor.get_value_from_registry(form)
        stored = library.compress(state, scheme)
        wanted = library.decompress(dict(stored), scheme)["weight"]
        return stored, wanted, ct_config(form, scheme.model_dump(mode="json"))

    return make


def ct_config(form: str, *groups: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {f"group_{index}": dict(group) for index, group in enumerate(groups)},
        },
    }


@pytest.fixture
def opened() -> Callable[..., Checkpoint]:
    """Open tensors, whose names begin with `m.` here, as the plugin shows them."""

    def show(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> Checkpoint:
        named = {name if name.startswith("m.") else f"m.{name}": value for name, value in tensors.items()}
        found = surgery_decode_checkpoint(MemoryCheckpoint(named, config or {}))
        assert found is not None
        return found

    return show


@pytest.fixture
def values() -> Callable[..., torch.Tensor]:
    """Return a decoded tensor's numbers in its shape."""

    def read(checkpoint: Checkpoint, name: str = "m.weight") -> torch.Tensor:
        spec = checkpoint.tensors[name]
        assert spec.dtype == "F32"
        data = bytearray(spec.nbytes)
        checkpoint.read_into(name, 0, memoryview(data))
        return torch.frombuffer(data, dtype=torch.float32).view(spec.shape)

    return read


@pytest.fixture
def weight() -> Callable[..., torch.Tensor]:
    """Return a matrix of normal numbers, the same for the same shape."""

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))

    return make
