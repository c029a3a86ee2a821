"""What a tensor is before it has values: name, shape, dtype, place in the model, bytes. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: its safetensors tag, bits per element, its name in torch (None: torch has none)."""

    tag: str
    bits: int
    torch: str | None
    floating: bool = False
    # bfloat16 to float64: the types arithmetic is done on; fp8 and fp4 codes mean nothing without their scales
    arithmetic: bool = False


DTYPES: Final[dict[str, DType]] = {
    d.tag: d
    for d in (
        DType("F64", 64, "float64", floating=True, arithmetic=True),
        DType("F32", 32, "float32", floating=True, arithmetic=True),
        DType("F16", 16, "float16", floating=True, arithmetic=True),
        DType("BF16", 16, "bfloat16", floating=True, arithmetic=True),
        DType("F8_E4M3", 8, "float8_e4m3fn", floating=True),
        DType("F8_E5M2", 8, "float8_e5m2", floating=True),
        DType("F8_E8M0", 8, "float8_e8m0fnu", floating=True),
        DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", floating=True),
        DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", floating=True),
        DType("F6_E2M3", 6, None, floating=True),
        DType("F6_E3M2", 6, None, floating=True),
        DType("F4", 4, "float4_e2m1fn_x2", floating=True),
        DType("C64", 64, "complex64"),
        DType("U64", 64, "uint64"),
        DType("I64", 64, "int64"),
        DType("U32", 32, "uint32"),
        DType("I32", 32, "int32"),
        DType("U16", 16, "uint16"),
        DType("I16", 16, "int16"),
        DType("U8", 8, "uint8"),
        DType("I8", 8, "int8"),
        DType("BOOL", 8, "bool"),
    )
}

# The names users write in a recipe, in the order in which the JSON schema lists them.
STORED_FLOATS: Final[dict[str, str]] = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}

_TORCH_TO_TAG: Final = {d.torch: d.tag for d in DTYPES.values() if d.torch}


def tag_of(torch_name: str) -> str:
    """Return the safetensors tag of a torch dtype's name (`bfloat16` or `torch.bfloat16`)."""
    return _TORCH_TO_TAG[torch_name.removeprefix("torch.")]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, shape and dtype tag."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Return the number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the tensor takes in a file."""
        return nbytes(self.numel, self.dtype)

    @property
    def row(self) -> int:
        """Return the number of elements of one row (all dimensions but the first)."""
        return math.prod(self.shape[1:]) if self.shape else 1

    def with_(self, *, name: str | None = None, dtype: str | None = None) -> TensorSpec:
        """Return the same tensor under another name or dtype."""
        return TensorSpec(self.name if name is None else name, self.shape, dtype or self.dtype)


def nbytes(numel: int, dtype: str) -> int:
    """Return the bytes that `numel` elements of `dtype` take; bits fill whole bytes."""
    return (numel * DTYPES[dtype].bits + 7) // 8


def promote(dtypes: list[str]) -> str:
    """Return the float dtype that holds all of `dtypes` exactly: bf16 with fp16 gives fp32."""
    distinct = set(dtypes)
    if len(distinct) == 1:
        return distinct.pop()
    return "F64" if "F64" in distinct else "F32"


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is for: `attention.q`, `mlp.gate`, `norm`, `embed`, `head`, ...; its layer and expert.

    `stack` is the path of the numbered run that the layer belongs to, `encoder.block`: an encoder and a decoder have
    a layer 3 each. It is empty outside the layers, and where only a name, not its whole model, was looked at.
    """

    kind: str = "other"
    layer: int | None = None
    expert: int | None = None
    stack: str = ""

    @property
    def place(self) -> tuple[str, int] | None:
        """Return stack and layer: what tensors of one layer have in common; None outside the layers."""
        return None if self.layer is None else (self.stack, self.layer)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a (virtual) model: its spec, its role, and how deep it lies in its model (0 to 1)."""

    spec: TensorSpec
    role: Role
    depth: float = 0.0

    @property
    def name(self) -> str:
        """Return the tensor's name."""
        return self.spec.name


def depth_of(role: Role, layers: int) -> float:
    """Return where a tensor stands on a ramp: l/(L-1) for layers, 0 before them, 1 for final norm and head.

    `layers` is L, the number of layers of the tensor's own stack.
    One layer alone counts as the end (1), as in mergekit; unlike there, what follows the layers is 1, not 0.
    """
    if role.layer is not None:
        return role.layer / (layers - 1) if layers > 1 else 1.0
    return 1.0 if role.kind == "norm.final" or role.kind.partition(".")[0] == "head" else 0.0


def human_bytes(count: float) -> str:
    """Return a byte count as people read it: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
