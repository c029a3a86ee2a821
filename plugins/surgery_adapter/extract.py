"""adapter.extract: what a fine-tune changed, as a LoRA adapter of its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import STORED_FLOATS, TensorSpec
from surgery_adapter._describe import describe
from surgery_adapter._factors import factor_bytes, factors
from surgery_adapter._kinds import PREFIX, Extract, Kind, kind_of, module_of, rank_of, transposed

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    Kind.LINEAR: ("lora_A.weight", "lora_B.weight"),
    Kind.EMBEDDING: ("lora_embedding_A", "lora_embedding_B"),
}


def parts(signature: Signature, p: Extract) -> Sequence[Part]:
    """Return the tensors of an adapter that a tensor becomes."""
    kind, (model,) = kind_of(signature, p), signature.models
    module = PREFIX + module_of(signature.name)
    if kind is Kind.BIAS:
        return [Part(model.with_(name=f"{module}.base_layer.bias"))]
    if kind is Kind.WHOLE:
        return [Part(model.with_(name=PREFIX + signature.name))]
    rank, dtype = rank_of(signature, p), STORED_FLOATS[p.dtype]
    out, into = _shape(signature, p)
    a, b = _NAMES[kind]
    return [
        Part(TensorSpec(f"{module}.{a}", (rank, into), dtype), rows=0),
        Part(TensorSpec(f"{module}.{b}", (out, rank), dtype), rows=0),
    ]


def _shape(signature: Signature, p: Extract) -> tuple[int, int]:
    """Return the shape of B·A."""
    rows, columns = signature.first.shape
    return (columns, rows) if transposed(signature, p) else (rows, columns)


def _left_out(signature: Signature, p: Extract) -> int | None:
    return 0 if kind_of(signature, p) is Kind.NOTHING else None


def _check(signature: Signature, p: Extract) -> str | None:
    whole = kind_of(signature, p) is Kind.WHOLE
    if whole and not signature.name.endswith((".weight", ".bias")):
        return "peft saves weights and biases of modules only; leave it out with `where:`"
    return None


def _workspace(signature: Signature, p: Extract) -> int:
    if kind_of(signature, p) not in _NAMES:
        return 0
    return factor_bytes(_shape(signature, p), rank_of(signature, p))


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
    rank, in patterns where ranks differ). The result is a folder that peft loads: adapter_model.safetensors and
    adapter_config.json.
    """
    first, *second = parts(x.signature, p)
    if not second:
        return {first.spec.name: x.models[0]}
    assert x.base is not None
    delta = x.models[0] - x.base
    if transposed(x.signature, p):
        delta = delta.T
    A, B = factors(delta, rank_of(x.signature, p), x.signature.name)
    return {first.spec.name: A.to(delta.dtype), second[0].spec.name: B.to(delta.dtype)}
