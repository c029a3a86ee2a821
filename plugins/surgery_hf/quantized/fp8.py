"""Which tensors are fp8 weights with a scale for each block, as DeepSeek-V3 stores them (2024, section 3.3)."""

from __future__ import annotations

from typing import Any

from surgery.tensors import TensorSpec
from surgery_hf.quantized.claims import SCALES, Claims, matrix
from surgery_hf.quantized.scaled import Plain, Scaled, cells_for


def claim(claims: Claims) -> None:
    """Claim every `X.weight` of e4m3 with `X.weight_scale_inv`, which in spite of its name multiplies."""
    block = claims.settings.get("weight_block_size")
    if block is not None and not _is_block(block):
        claims.problems.append(
            f"`quantization_config.weight_block_size` must be two sizes, got {block!r:.80}"
        )
        return
    if claims.settings.get("fmt", "e4m3") != "e4m3":
        claims.problems.append(
            f"`quantization_config.fmt` must be `e4m3`, got {claims.settings['fmt']!r:.80}"
        )
        return
    for name, codes in claims.stored.tensors.items():
        if name.endswith(".weight") and codes.dtype == "F8_E4M3":
            _claim_weight(claims, codes, block)
    claims.hide_activations()
    claims.left_over()


def _is_block(block: Any) -> bool:
    return (
        isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)
    )


def _claim_weight(claims: Claims, codes: TensorSpec, block: list[int] | None) -> None:
    shape = matrix(claims, codes)
    if shape is None:
        return
    cells = cells_for(shape, *(block or shape))
    # without blocks there is one scale, and a single number has no shape of its own
    shapes = [cells.shape] if block else [(), (1,), (1, 1)]
    scales = claims.need(codes.name, f"{codes.name}_scale_inv", SCALES, shapes)
    if scales is not None:
        claims.claim(Scaled(TensorSpec(codes.name, shape, "F32"), Plain(codes), cells, Plain(scales)))
