"""Which tensors are compressed-tensors' weights: `pack-quantized`, `int-quantized` and `float-quantized`."""

from __future__ import annotations

from collections.abc import Callable

from surgery.math.packing import words_for
from surgery.tensors import TensorSpec
from surgery_hf.quantized.claims import FLOATS, Claims, matrix
from surgery_hf.quantized.compressed_config import Group, Weights, read_groups
from surgery_hf.quantized.scaled import Packed, Plain, Scaled

Build = Callable[[Claims, str, TensorSpec, Weights], Scaled | None]


def claim(claims: Claims) -> None:
    """Claim every weight that a group of `quantization_config` describes."""
    groups = read_groups(claims)
    if groups is None:
        return
    for module, packed in claims.ending(".weight_packed"):
        _choose(claims, module, packed, groups, _packed)
    for module, codes in claims.ending(".weight"):
        if codes.dtype in ("I8", "F8_E4M3"):
            _choose(claims, module, codes, groups, _plain)
    claims.hide_activations()
    claims.left_over()


def _choose(claims: Claims, module: str, codes: TensorSpec, groups: list[Group], build: Build) -> None:
    """Claim a module's weight as the one group says that names it, or that alone fits."""
    named = [group for group in groups if group.names(module)] or groups
    tried = [(Claims(claims.stored, claims.settings), group.weights) for group in named]
    fitting = {
        codec for trial, weights in tried if weights and (codec := build(trial, module, codes, weights))
    }
    if len(fitting) == 1:
        claims.claim(fitting.pop(), f"{module}.weight_shape")
    elif fitting:
        claims.problem(
            codes.name, f"{len(fitting)} groups of `quantization_config` fit it; name it in one's targets"
        )
    elif tried:
        claims.problems.extend(tried[0][0].problems)
    else:
        claims.problem(codes.name, "no group of `quantization_config` has `weights`")


def _packed(claims: Claims, module: str, codes: TensorSpec, weights: Weights) -> Scaled | None:
    """Return how a module's packed weight is decoded; None after noting why it is not."""
    shape = _stored_shape(claims, module, codes)
    if shape is None:
        return None
    bits = weights.num_bits
    words = shape[0], words_for(shape[1], bits)
    if weights.type == "int" and codes.dtype == "I32" and codes.shape == words:
        return _scaled(claims, module, Packed(codes, bits), shape, weights)
    what = f"must be I32 {words} for {bits}-bit integers of shape {shape}, got {codes.dtype} {codes.shape}"
    # 2, 4 and 8 bits lie the same either way
    old = "; libraries before 2026 packed this width otherwise: save it anew with a current one"
    claims.problem(codes.name, what + (old if 32 % bits else ""))
    return None


def _stored_shape(claims: Claims, module: str, codes: TensorSpec) -> tuple[int, int] | None:
    """Return the weight's shape, which is stored among the weights: 16 bytes."""
    spec = claims.need(codes.name, f"{module}.weight_shape", ("I64", "I32"), [(2,)])
    if spec is None:
        return None
    data, size = claims.bytes_of(spec), spec.nbytes // 2
    rows, columns = (int.from_bytes(data[at : at + size], "little", signed=True) for at in (0, size))
    if rows < 1 or columns < 1:
        claims.problem(spec.name, f"must hold a matrix's shape, got ({rows}, {columns})")
        return None
    return rows, columns


def _plain(claims: Claims, module: str, codes: TensorSpec, weights: Weights) -> Scaled | None:
    """Return how a module's weight of whole bytes is decoded; None after noting why it is not."""
    wanted = "I8" if weights.type == "int" else "F8_E4M3"
    if codes.dtype != wanted or (wanted == "F8_E4M3" and weights.num_bits != 8):
        kind = f"{weights.num_bits}-bit {weights.type}"
        claims.problem(codes.name, f"is said to hold {kind} codes, got {codes.dtype} {codes.shape}")
        return None
    shape = matrix(claims, codes)
    return _scaled(claims, module, Plain(codes), shape, weights) if shape else None


def _scaled(
    claims: Claims, module: str, codes: Packed | Plain, shape: tuple[int, int], weights: Weights
) -> Scaled | None:
    """Return codes with the scales, zero points and order that belong to them."""
    cells = weights.cells(shape)
    # the scale of a whole tensor is a number, whose shape writers do not agree on
    shapes: list[tuple[int, ...]] = [cells.shape] if weights.kind != "tensor" else [(), (1,), (1, 1)]
    scales = claims.need(codes.spec.name, f"{module}.weight_scale", FLOATS, shapes)
    zeros = _zeros(claims, module, codes, shapes, words_for(shape[0], weights.num_bits), weights)
    order = _order(claims, module, codes, shape[1], weights)
    if scales is None or claims.problems:
        return None
    return Scaled(TensorSpec(f"{module}.weight", shape, "F32"), codes, cells, Plain(scales), zeros, order)


def _zeros(
    claims: Claims,
    module: str,
    codes: Packed | Plain,
    shapes: list[tuple[int, ...]],
    words: int,
    weights: Weights,
) -> Packed | Plain | None:
    """Return the zero points, in `words` words down the rows or one by one; None if there are none."""
    name = f"{module}.weight_zero_point"
    spec = claims.spec(name)
    if spec is None and weights.symmetric:
        return None
    if isinstance(codes, Packed) and (spec is None or spec.dtype == "I32"):
        found = claims.need(codes.spec.name, name, ("I32",), [(words, *shapes[0][1:])])
        return Packed(found, codes.bits, axis=0) if found else None
    found = claims.need(codes.spec.name, name, ("I8", *FLOATS, "F8_E4M3"), shapes)
    return Plain(found) if found else None


def _order(
    claims: Claims, module: str, codes: Packed | Plain, columns: int, weights: Weights
) -> TensorSpec | None:
    """Return the activation order, which only old writers store: the group of each column."""
    name = f"{module}.weight_g_idx"
    if weights.actorder in ("group", "dynamic") or claims.spec(name) is not None:
        return claims.need(codes.spec.name, name, ("I32",), [(columns,)])
    return None
