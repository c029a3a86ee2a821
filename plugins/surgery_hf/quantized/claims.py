"""The stored tensors of a quantized checkpoint on their way to being claimed, and what was found wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.base import Checkpoint
from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.quantized.tiles import Codec

# What quantizers put beside a weight, by the ends of the names.
TELLING: Final = re.compile(
    r"\.(weight_packed|weight_scale(_inv|_2)?|weight_zero_point|weight_shape|weight_g_idx|weight_global_scale"
    r"|qweight|qzeros|SCB|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
)
# Ranges of activations: they mean nothing to a model that does not quantize its activations.
_ACTIVATIONS: Final = re.compile(
    r".*\.((input|output|activation|[qkv])_scale|(input|output)_zero_point|input_global_scale)"
)
# Keys of config.json that say how tensors are coded; the second is that of early compressed-tensors.
SETTINGS: Final = ("quantization_config", "compression_config")
FLOATS: Final = ("F16", "BF16", "F32")
SCALES: Final = (*FLOATS, "F8_E8M0")


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Return whether config.json or the names of tensors say that a checkpoint is quantized."""
    return any(checkpoint.config.get(key) is not None for key in SETTINGS) or any(
        TELLING.search(name) for name in checkpoint.tensors
    )


@dataclass(slots=True)
class Claims:
    """Which stored tensors are parts of what decoded tensor; problems are collected, then reported at once."""

    stored: Checkpoint
    settings: Mapping[str, Any]
    codecs: dict[str, Codec] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def spec(self, name: str) -> TensorSpec | None:
        """Return a stored tensor's spec; None if there is none of that name."""
        return self.stored.tensors.get(name)

    def ending(self, suffix: str) -> list[tuple[str, TensorSpec]]:
        """Return the stored tensors whose names end so, with what comes before the ending."""
        return [
            (name.removesuffix(suffix), spec)
            for name, spec in self.stored.tensors.items()
            if name.endswith(suffix)
        ]

    def claim(self, codec: Codec, *others: str) -> None:
        """Show a codec's tensor instead of its parts and of `others`, as far as these are stored."""
        codes = codec.parts[0].name
        if codec.spec.name != codes and codec.spec.name in self.stored.tensors:
            self.problem(codes, f"stands for `{codec.spec.name}`, which is stored too; remove one of them")
        self.codecs[codec.spec.name] = codec
        self.hidden.update(part.name for part in codec.parts[1:])
        self.hidden.update(name for name in others if name in self.stored.tensors)

    def problem(self, name: str, what: str) -> None:
        """Note what is wrong with a stored tensor."""
        extent = self.stored.extent(name) if name in self.stored.tensors else None
        file = f"{Path(extent.file).name}: " if extent else ""
        self.problems.append(f"{file}tensor `{name}`: {what}")

    def need(
        self, owner: str, name: str, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]
    ) -> TensorSpec | None:
        """Return the stored tensor `name` that `owner` needs; None after noting that it is missing or another."""
        spec = self.spec(name)
        if spec is None:
            self.problem(owner, f"needs `{name}`, which is in no file")
        elif spec.dtype not in dtypes or (shapes and spec.shape not in shapes):
            wanted = f"{' or '.join(dtypes)} {' or '.join(map(str, shapes))}".rstrip()
            self.problem(name, f"must be {wanted} for `{owner}`, got {spec.dtype} {spec.shape}")
        else:
            return spec
        return None

    def bytes_of(self, spec: TensorSpec) -> bytes:
        """Return a stored tensor's bytes: for shapes and descriptions, which some formats keep among the weights."""
        data = bytearray(spec.nbytes)
        self.stored.read_into(spec.name, 0, memoryview(data))
        return bytes(data)

    def hide_activations(self) -> None:
        """Hide the scales of activations."""
        self.hidden.update(name for name in self.stored.tensors if _ACTIVATIONS.fullmatch(name))

    def left_over(self) -> None:
        """Note what no codec claimed although it holds no numbers by itself; once for each weight that has findings."""
        claimed = {part.name for codec in self.codecs.values() for part in codec.parts} | self.hidden
        told = " ".join(self.problems)
        for name, spec in self.stored.tensors.items():
            owner = TELLING.sub("", name).removesuffix(".weight")
            if name in claimed or f"`{owner}." in told:
                continue
            coded = name.endswith(".weight") and not DTYPES[spec.dtype].arithmetic
            if coded or TELLING.search(name) or spec.dtype.startswith("F8_"):
                self.problem(name, f"is {spec.dtype} {spec.shape}, part of no quantized weight that is known")
        for alias, name in self.stored.aliases.items():
            if name in claimed:
                self.problem(alias, f"shares the memory of `{name}`, quantized tensors must have their own")


def matrix(claims: Claims, spec: TensorSpec) -> tuple[int, int] | None:
    """Return the shape of codes that are stored one by one; None after noting that they are no matrix."""
    if len(spec.shape) == 2 and spec.numel:
        return spec.shape[0], spec.shape[1]
    claims.problem(spec.name, f"must be a matrix to be decoded, got {spec.dtype} {spec.shape}")
    return None
