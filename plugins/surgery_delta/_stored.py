"""What all codecs share: parameters, which tensors are coded, and what stands beside the codes. Imports no torch.

    name.base     I32 [⌈rows / b⌉]    checks of the base, one for b rows: see `_checks`
    name          as it is stored     a tensor that is not coded, whole

Rows are those of the first dimension; an expert of a stack is one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from surgery.ops import Chunk, Params, Part, Signature
from surgery.targets import Targets, is_target
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

CONFIG: Final = "delta_config.json"
STEM: Final = "delta"
FORMAT: Final = 1

CHECK: Final = "base"
_MATRIX: Final = 2
# Elements that one check covers, and that a reader decodes at a time.
_BLOCK: Final = 1 << 16


class Delta(Params):
    """Parameters of every codec."""

    codec: ClassVar[str] = ""

    targets: Targets = "linear"
    """What is coded: Linears of the blocks, or `all` matrices, embeddings and head among them."""

    save: Literal["rest", "none"] = "rest"
    """`rest`: what is not coded (norms, biases, embeddings) is stored whole; `none`: its change is dropped."""

    base_model: str | None = None
    """What the file says its base is called; by default the source of `base`, of a path the last part."""


def is_coded(signature: Signature, p: Delta) -> bool:
    """Return whether a tensor's change is coded."""
    matrix = len(signature.first.shape) >= _MATRIX and signature.numel > 0
    return matrix and is_target(signature, p.targets)


def left_out(signature: Signature, p: Delta) -> int | None:
    """Return 0 for tensors of which nothing is stored."""
    return 0 if p.save == "none" and not is_coded(signature, p) else None


def block_rows(row: int) -> int:
    """Return how many rows of `row` elements one check covers."""
    return max(1, _BLOCK // max(row, 1))


def part(name: str, suffix: str, shape: tuple[int, ...], dtype: str, *, rows: int = 1) -> Part:
    """Return a tensor that is stored of `name`'s change."""
    return Part(TensorSpec(f"{name}.{suffix}", shape, dtype), rows)


def check_part(spec: TensorSpec) -> Part:
    """Return the checks of a coded tensor's base."""
    rows = block_rows(spec.row)
    return part(spec.name, CHECK, (-(-spec.shape[0] // rows),), "I32", rows=rows)


def whole(signature: Signature) -> list[Part]:
    """Return the one tensor that is stored of a tensor that is not coded: the fine-tune's own."""
    spec = signature.models[0]
    return [Part(spec, rows=1 if spec.shape else 0)]


def as_it_is(x: Chunk) -> Mapping[str, Tensor]:
    """Return what `whole` declares, of some rows or of all."""
    spec = x.signature.models[0]
    return {spec.name: x.models[0].reshape(-1, *spec.shape[1:]) if spec.shape else x.models[0].reshape(())}


def parameters(p: Delta) -> dict[str, Any]:
    """Return the parameters that a reader needs: not what they were applied to."""
    return p.model_dump(mode="json", by_alias=True, exclude=set(Delta.model_fields))
