"""Which models have a tensor, and whether theirs can be combined: the same shape, and numbers to compute with."""

from __future__ import annotations

from surgery.ops import BASE, Space, Split
from surgery.plan.expansion import Expansion, Operand
from surgery.plan.nodes import Agree, Emitted
from surgery.tensors import DTYPES, TensorSpec


def operands_of(work: Expansion, name: str) -> list[Operand] | None:
    """Return who has the tensor, base first; None after settling what happens when some lack it."""
    have: list[Operand] = []
    lack: list[str] = []
    for index, model in work.inputs:
        node, info = model.node(name), model.info(name)
        if node is None or info is None:
            lack.append(model.name)
        else:
            have.append(Operand(index, model, node, info))
    return _without(work, name, have, lack) if lack else have


def _without(work: Expansion, name: str, have: list[Operand], lack: list[str]) -> list[Operand] | None:
    """Return who takes part in a tensor that some lack; None if it was copied or refused."""
    missing = work.step.missing
    if work.step.op.partial:
        _partial(work, name, have[0])
        return None
    if missing == "skip" and work.split is Split.MODEL:
        what = f"tensor {name} is missing in {_quoted(lack)}, `scope: model` needs it everywhere; set `missing: base`"
        work.refuse(name, f"missing {lack}", what)
        return None
    if missing == "skip" and (work.base is None or have[0].index == BASE):
        if have[-1].index != BASE:
            return have
        work.copy(name, have[0])
        return None
    if missing == "base":
        work.copy(name, have[0])
        return None
    owners = _quoted([operand.model.name for operand in have])
    what = f"tensor {name} is missing in {_quoted(lack)}, {owners} has it"
    advice = "set `missing: skip` to use the models that have it, or `missing: base` to copy it"
    work.refuse(name, f"missing {lack}", f"{what}; {advice}")
    return None


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _partial(work: Expansion, name: str, have: Operand) -> None:
    """Copy what the models need not have; refuse what they have besides."""
    if have.index == BASE:
        work.copy(name, have)
        return
    what = f"`{have.model.name}` has {name}, which the base lacks; it was made for another model"
    work.refuse(name, f"besides {have.index}", what)


def combinable(work: Expansion, name: str, operands: list[Operand]) -> bool:
    """Return whether the op can be given some models' tensors; what cannot be is copied, left out or refused."""
    if work.step.op.shapes == "same" and not _same_shapes(work, name, operands):
        return False
    stored = next((operand.node for operand in operands if isinstance(operand.node, Emitted)), None)
    if stored is not None:
        op, maker = work.step.op.name, stored.call
        what = f"`{op}` computes with what `{maker.op.name}` stores; put it before step `{maker.step}`"
        work.refuse(name, what, f"{name}: {what}")
        return False
    if not all(_computable(work, operand.info.spec) for operand in operands):
        _agree(work, name, operands)
        return False
    return True


def _computable(work: Expansion, spec: TensorSpec) -> bool:
    mask = spec.dtype == "BOOL" and work.step.op.takes is Space.MASK
    return mask or DTYPES[spec.dtype].arithmetic


def _same_shapes(work: Expansion, name: str, operands: list[Operand]) -> bool:
    first = operands[0]
    for other in operands[1:]:
        if other.info.spec.shape != first.info.spec.shape:
            a, b = first.info.spec, other.info.spec
            vocabulary = first.info.role.kind in ("embed", "head")
            equal = "make the vocabularies equal with `stitch.tokenizer` or `stitch.resize_vocab`"
            equal = work.problems.recipe.advice("vocabulary", equal)
            advice = equal if vocabulary else "merge models of one size"
            what = f"`{first.model.name}` and `{other.model.name}` differ at {name}: {a.shape} and {b.shape}"
            work.refuse(name, f"shape {first.model.name} {other.model.name}", f"{what}; {advice}")
            return False
    return True


def _agree(work: Expansion, name: str, operands: list[Operand]) -> None:
    """Copy a tensor without arithmetic; quantized codes of several models cannot be combined."""
    first, others = operands[0], operands[1:]
    if work.step.op.rest == "drop":
        return
    dtypes = {operand.info.spec.dtype for operand in operands}
    if DTYPES[first.info.spec.dtype].floating or len(dtypes) > 1:
        what = f"tensor {name} is stored as {' and '.join(sorted(dtypes))}, no arithmetic is defined on it"
        advice = "dequantize the models first, or leave it out with `where:`"
        work.refuse(name, f"dtype {sorted(dtypes)}", f"{what}; {advice}")
        return
    spec = first.info.spec
    if others and work.problems.recipe.on_int == "error":
        work.put(name, Agree(work.step.name, first.node, tuple(o.node for o in others), spec), spec)
    else:
        work.put(name, first.node, spec)
