"""adapter.extract: what a fine-tune changed, as a LoRA adapter of its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.notes import note_energy
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery_adapter._describe import describe
from surgery_adapter._factors import directions, divided, factor_bytes
from surgery_adapter._kinds import (
    PREFIX,
    Extract,
    Kind,
    has_factors,
    kind_of,
    module_of,
    pair,
    pair_shape,
    rank_of,
    transposed,
)

if TYPE_CHECKING:
    from torch import Tensor


def parts(signature: Signature, p: Extract) -> Sequence[Part]:
    """Return the tensors of an adapter that a tensor becomes."""
    kind, (model,) = kind_of(signature, p), signature.models
    module = PREFIX + module_of(signature.name)
    if kind is Kind.BIAS:
        return [Part(model.with_(name=f"{module}.base_layer.bias"))]
    if kind is Kind.WHOLE:
        return [Part(model.with_(name=PREFIX + signature.name))]
    return [Part(spec, rows=0) for spec in pair(signature, p)]


def _left_out(signature: Signature, p: Extract) -> int | None:
    return 0 if kind_of(signature, p) is Kind.NOTHING else None


def _check(signature: Signature, p: Extract) -> str | None:
    whole = kind_of(signature, p) is Kind.WHOLE
    if whole and not signature.name.endswith((".weight", ".bias")):
        return "peft saves weights and biases of modules only; leave it out with `where:`"
    return None


def _workspace(signature: Signature, p: Extract) -> int:
    if not has_factors(signature, p):
        return 0
    return factor_bytes(pair_shape(signature, p), rank_of(signature, p))


@op(
    "adapter.extract",
    split=Split.TENSOR,
    params=Extract,
    base="required",
    models=1,
    gives=Space.FACTORS,
    emits=parts,
    describe=describe,
    simplify=_left_out,
    check=_check,
    rest="drop",
    workspace=_workspace,
    cite=(
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685; "
        "Eckart, Young 1936, The approximation of one matrix by another of lower rank"
    ),
)
def extract(x: Chunk, p: Extract) -> Mapping[str, Tensor]:
    """Take a LoRA adapter out of a fine-tune: the best B·A of a rank for each matrix's change.

    The change is W - base in float32, decomposed in float64; the error is the root of the dropped Σσ², to which
    rounding the factors adds 2⁻²³ of the change in float32, 2⁻⁸ in bfloat16. The scale is 1 (`lora_alpha` equals the
    rank, in patterns where ranks differ). With `energy` each change gets only as many directions as have that share of
    its sum of squares; sizes are fixed before a weight is read, so that zeros fill the rest of `rank`.

    The report tells of every change `energy`, the share of its sum of squares that is kept, and `rank`. The result is a
    folder that peft loads: adapter_model.safetensors and adapter_config.json.
    """
    first, *second = parts(x.signature, p)
    if not second:
        return {first.spec.name: x.models[0]}
    from surgery.math.reduce import squared_norm

    assert x.base is not None
    delta = x.models[0] - x.base
    whole = squared_norm(delta.reshape(-1))
    if transposed(x.signature, p):
        delta = delta.T
    U, S, Vh = directions(delta, rank_of(x.signature, p), x.signature.name, p.energy)
    x.note("rank", int(S.count_nonzero()))
    note_energy(x, float(S.square().sum()), whole)
    A, B = divided(U, S, Vh)
    return {first.spec.name: A.to(delta.dtype), second[0].spec.name: B.to(delta.dtype)}
