"""Which tensors are bitsandbytes' 4-bit and 8-bit weights. They describe themselves: config.json is not needed."""

from __future__ import annotations

import json
import math
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationError

from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.quantized.blocks import Blocks, Nested
from surgery_hf.quantized.claims import Claims, matrix
from surgery_hf.quantized.scaled import Plain, Scaled, cells_for

STATE: Final = ".quant_state.bitsandbytes__"
# The library multiplies by this rounded 1/127, and so must we.
_TO_UNIT: Final = 7.874015718698502e-3
_LONGEST_STATE: Final = 4096  # bytes; a real one has about 200

_Size = Annotated[int, Field(ge=1, lt=1 << 48)]
_Block = Annotated[
    int, Field(ge=1, le=1 << 16)
]  # a block's scale is repeated as often; real ones have 4096 at most


class _State(BaseModel):
    """What a quant_state says, stored as JSON in a tensor of bytes."""

    quant_type: Literal["nf4", "fp4"]
    blocksize: _Block
    dtype: str
    shape: Annotated[list[_Size], Field(min_length=1)]
    nested_blocksize: _Block | None = None
    nested_dtype: Literal["float32"] | None = None
    nested_offset: float | None = None


def claim(claims: Claims) -> None:
    """Claim every weight with a quant_state or with row scales `SCB`."""
    for name, spec in claims.stored.tensors.items():
        weight, found, _ = name.partition(STATE)
        if found:
            _claim_blocks(claims, weight, spec)
    for module, spec in claims.ending(".SCB"):
        _claim_rows(claims, module, spec)
    claims.left_over()


def _claim_blocks(claims: Claims, weight: str, spec: TensorSpec) -> None:
    state = _state(claims, spec)
    if state is None:
        return
    numel = math.prod(state.shape)
    blocks = -(-numel // state.blocksize)
    codes = claims.spec(weight)
    if codes is None or codes.nbytes != -(-numel // 2) or DTYPES[codes.dtype].bits < 8:
        got = f"got {codes.dtype} {codes.shape}" if codes else "which is in no file"
        claims.problem(spec.name, f"needs {-(-numel // 2)} bytes of codes in `{weight}`, {got}")
        return
    nested = state.nested_blocksize is not None
    absmax = claims.need(weight, f"{weight}.absmax", ("U8",) if nested else ("F32",), [(blocks,)])
    values = claims.need(weight, f"{weight}.quant_map", ("F32",), [(16,)])
    double = _nested(claims, weight, state, blocks) if nested else None
    if absmax and values and (double or not nested):
        decoded = TensorSpec(weight, tuple(state.shape), "F32")
        claims.claim(Blocks(decoded, codes, absmax, values, state.blocksize, double), spec.name)


def _nested(claims: Claims, weight: str, state: _State, blocks: int) -> Nested | None:
    block, offset = state.nested_blocksize, state.nested_offset
    if block is None or offset is None:
        claims.problem(weight, "its quant_state has a `nested_blocksize` but no `nested_offset`")
        return None
    absmax = claims.need(weight, f"{weight}.nested_absmax", ("F32",), [(-(-blocks // block),)])
    values = claims.need(weight, f"{weight}.nested_quant_map", ("F32",), [(256,)])
    return Nested(absmax, values, block, offset) if absmax and values else None


def _state(claims: Claims, spec: TensorSpec) -> _State | None:
    if spec.dtype != "U8" or spec.nbytes > _LONGEST_STATE:
        claims.problem(
            spec.name, f"must be at most {_LONGEST_STATE} bytes of JSON, got {spec.dtype} {spec.shape}"
        )
        return None
    try:
        return _State.model_validate(json.loads(claims.bytes_of(spec)))
    except ValidationError as error:
        for wrong in error.errors():
            where = ".".join(map(str, wrong["loc"]))
            claims.problem(spec.name, f"`{where}`: {wrong['msg'].lower()}, got {wrong['input']!r:.80}")
    except (ValueError, RecursionError) as error:
        claims.problem(spec.name, f"is not JSON: {error}")
    return None


def _claim_rows(claims: Claims, module: str, spec: TensorSpec) -> None:
    """Claim an int8 weight with a scale for each row (Dettmers et al., LLM.int8(), 2022)."""
    weight = f"{module}.weight"
    codes = claims.need(spec.name, weight, ("I8",), [])
    shape = matrix(claims, codes) if codes else None
    if codes is None or shape is None or claims.need(weight, spec.name, ("F32",), [shape[:1]]) is None:
        return
    layout = claims.spec(f"{module}.weight_format")
    if layout is not None and (layout.dtype != "U8" or any(claims.bytes_of(layout))):
        claims.problem(layout.name, "is not 0 (rows): save the model anew with a current bitsandbytes")
        return
    decoded = TensorSpec(weight, shape, "F32")
    cells = cells_for(shape, 1, shape[1])
    claims.claim(
        Scaled(decoded, Plain(codes), cells, Plain(spec), factor=_TO_UNIT), f"{module}.weight_format"
    )
