"""What all integer quantizers share: parameters, which tensors they take, and the tensors that they make. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from surgery.ops import Params, Part, Signature
from surgery.recipe.select import Selection
from surgery.targets import is_block_linear, is_stack
from surgery.tensors import TensorInfo, TensorSpec

_MATRIX: Final = 2
WORD: Final = 32  # bits of the words that codes are packed into


def _selectors(texts: tuple[str, ...]) -> tuple[str, ...]:
    Selection(texts)
    return texts


class Scheme(Params):
    """How weights become integers; `bits` is each op's own."""

    symmetric: bool = True
    """Codes around 0 and a scale; otherwise a zero point too, so that the codes cover lowest to highest weight."""

    group_size: Annotated[int, Field(ge=8)] | None = None
    """How many neighbours along a Linear's input share a scale; `null`: a whole row does."""

    scales: Literal["absmax", "mse"] = "absmax"
    """`absmax`: the largest weight of a group is a code; `mse`: a smaller range if that rounds the others better."""

    keep: Annotated[tuple[str, ...], AfterValidator(_selectors)] = ()
    """Selectors of Linears that stay as they are, besides embeddings, heads, norms and routers, which always do."""

    on_indivisible: Literal["error", "keep"] = "error"
    """What to do about a Linear whose inputs do not divide into groups: refuse, or leave it as it is."""

    @property
    def bits(self) -> int:
        """Return the bits of a code."""
        raise NotImplementedError

    @property
    def packed(self) -> bool:
        """Return whether codes are packed into words; otherwise each is a byte of its own."""
        return True

    @property
    def strategy(self) -> str:
        """Return what compressed-tensors calls the tensors that share a scale."""
        return "channel" if self.group_size is None else "group"


@lru_cache(maxsize=64)
def _kept(texts: tuple[str, ...]) -> Selection | None:
    return Selection(texts) if texts else None


def untouched(signature: Signature, p: Scheme) -> bool:
    """Return whether a tensor stays as it is."""
    kept = _kept(p.keep)
    info = TensorInfo(signature.first, signature.role)
    if not is_block_linear(signature) or (kept is not None and kept.matches(info)):
        return True
    return p.on_indivisible == "keep" and not is_stack(signature) and _indivisible(signature, p)


def _indivisible(signature: Signature, p: Scheme) -> bool:
    return p.group_size is not None and signature.first.shape[-1] % p.group_size != 0


def same(signature: Signature, p: Scheme) -> int | None:
    """Return the input whose bytes are the result, for tensors that stay as they are."""
    return 0 if untouched(signature, p) else None


def check(signature: Signature, p: Scheme) -> str | None:
    """Return what is wrong with a tensor, or None."""
    if untouched(signature, p):
        return None
    if is_stack(signature) or not signature.name.endswith(".weight"):
        return "experts in one tensor have no such format; leave them out with `keep: [experts]`"
    if _indivisible(signature, p):
        inputs = signature.first.shape[-1]
        advice = "set `on_indivisible: keep`, `group_size: null`, or another size"
        return f"{inputs} inputs do not divide into groups of {p.group_size}; {advice}"
    return None


def scale_dtype(signature: Signature) -> str:
    """Return what scales are stored as: engines cast them to the model's dtype, and then float32 would lose bits."""
    return "F16" if signature.first.dtype == "F16" else "BF16"


def groups(signature: Signature, p: Scheme) -> int:
    """Return how many scales a row has."""
    return 1 if p.group_size is None else signature.first.shape[1] // p.group_size


def parts(signature: Signature, p: Scheme) -> Sequence[Part]:
    """Return the tensors of a quantized Linear, as compressed-tensors names them."""
    rows, columns = signature.first.shape
    stem = signature.name.removesuffix("weight")
    scales = Part(TensorSpec(f"{stem}weight_scale", (rows, groups(signature, p)), scale_dtype(signature)))
    if not p.packed:
        return [Part(TensorSpec(signature.name, (rows, columns), "I8")), scales]
    made = [
        Part(TensorSpec(f"{stem}weight_packed", (rows, -(-columns * p.bits // WORD)), "I32")),
        scales,
        Part(TensorSpec(f"{stem}weight_shape", (_MATRIX,), "I64"), rows=0),
    ]
    if not p.symmetric:
        # zero points are packed along the rows
        packed_rows = -(-rows * p.bits // WORD)
        spec = TensorSpec(f"{stem}weight_zero_point", (packed_rows, groups(signature, p)), "I32")
        made.append(Part(spec, rows=WORD // p.bits))
    return made


def weights_args(p: Scheme) -> dict[str, Any]:
    """Return the `weights` entry of a config group, with keys that every reader since 0.17 knows."""
    args: dict[str, Any] = {
        "num_bits": p.bits,
        "type": "int",
        "symmetric": p.symmetric,
        "strategy": p.strategy,
        "dynamic": False,
    }
    return args if p.group_size is None else args | {"group_size": p.group_size}
