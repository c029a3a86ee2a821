"""Runs one op on tensors in memory, the plainest way that fulfils the contract; uses no code of the engine.

Tests compare ops with their papers through it, and the engine with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from surgery.architecture import Architecture
from surgery.companion import Beside, arranged, flat
from surgery.errors import OpError, PluginError
from surgery.math.convert import encode, torch_dtype
from surgery.ops import BASE, BLOCK, Group, Op, Params, Reduce, Scan, Signature, Split
from surgery.scalars import BySelector, Ramp, resolve
from surgery.tensors import Role, TensorInfo, TensorSpec, tag_of
from surgery.testing.chunk import MemoryChunk, cut, reshaped, sample, whole_shape

Models = Sequence[Tensor] | Mapping[str, Tensor]
Each = Sequence[Any] | Mapping[str, Any]


def run_op(
    op: Op,
    params: Any = None,
    models: Models = (),
    base: Tensor | None = None,
    each: Each | None = None,
    *,
    name: str = "w",
    seed: int = 0,
    chunk: int | None = None,
    depth: float = 0.0,
    device: str = "cpu",
    block: int = BLOCK,
    span: int | None = None,
    role: Role | None = None,
    statistics: Mapping[str, Tensor] | None = None,
    companions: Beside[Tensor] | None = None,
    notes: dict[str, float] | None = None,
) -> Tensor:
    """Return what `op` makes of one tensor of some models, in the dtype that it infers.

    `models` is a list, or a mapping from model names (then an op that is not `ordered` gets them sorted by
    name); `params` and the entries of `each` are instances of the op's parameters or mappings of them. `chunk`
    is the number of elements (rows for a ROW op) that the op sees at a time; gathers see blocks of `block`
    elements whatever it is, folded one by one, or `span` at a time and then the spans. To a MODEL op the tensor
    is the whole model. Ramps are taken at `depth`; `statistics` are what the op needs, by `Need`,
    and `companions` what stands beside each model in the order in which the op sees them, by name. What the op notes
    is added to `notes`.
    Raises OpError where the op's `check` finds a fault, PluginError where the op breaks the contract.
    """
    tensors, own = _in_order(op, models, each)
    given = concrete(op.params, params, depth)
    beside = _beside(op, companions or {}, len(tensors))
    signature = signature_of(op, tensors, base, own, name=name, depth=depth, role=role, companions=beside)
    wrong = op.check(signature, given) if op.check else None
    if wrong:
        raise OpError(f"{name}: {wrong}")
    spec = op.output(signature, given)
    copied = _copied(op, signature, given, tensors, base)
    if copied is not None:
        return copied.clone().to(torch_dtype(spec.dtype))
    whole = _chunk(op, signature, tensors, base, seed, device, statistics, beside, noted=notes)
    values = _run(op, given, whole, chunk, partial(_gather, block=block, span=span))
    _require_untouched(whole, tensors, base, beside)
    if values.numel() != spec.numel or (op.split_of(given) is Split.TENSOR and values.shape != spec.shape):
        raise PluginError(
            f"op `{op.name}`: shape as inferred: got {tuple(values.shape)} for {spec.shape}; mend `infer`"
        )
    return _rounded(values.reshape(spec.shape), spec.dtype)


def run_model_op(
    op: Op,
    params: Any,
    models: Mapping[str, Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None = None,
    each: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return what a MODEL op makes of whole models (name -> tensors); all have the same tensors.

    The op gathers over the blocks of all tensors, in the order of the first model's; `signature.numel` is the
    elements of the model. `scan` and `solve` see the signature of the first tensor. Every tensor is applied
    to, whatever `simplify` says.
    """
    order = list(models) if op.ordered else sorted(models)
    given = concrete(op.params, params)
    own = [(each or {}).get(model) for model in order]
    first = models[order[0]]
    numel = sum(tensor.numel() for tensor in first.values())
    wholes = []
    for name in first:
        tensors = [models[model][name] for model in order]
        below = base[name] if base is not None else None
        signature = signature_of(op, tensors, below, own, name=name, numel=numel)
        wholes.append(_chunk(op, signature, tensors, below, seed))
    flat = [reshaped(whole, (-1,)) for whole in wholes]
    found = _gather(op, given, flat)
    results = {}
    for whole, part in zip(wholes, flat, strict=True):
        values = _held(op, part, op.implementation.apply(part, given, found)).reshape(whole_shape(whole))
        results[whole.signature.name] = _rounded(values, op.output(whole.signature, given).dtype)
    return results


def run_group_op(
    op: Op,
    params: Any,
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    *,
    others: Sequence[Mapping[str, Tensor]] = (),
    each: Sequence[Any] = (),
    seed: int = 0,
    notes: dict[str, dict[str, float]] | None = None,
) -> dict[str, Tensor]:
    """Return what a GROUP op makes of the tensors of one model; those that belong to no group as they are.

    `others` are further models, which have the same tensors; `each` are the parameters of all models in turn. What the
    op notes is added to `notes`, by tensor.
    """
    implementation: Group = op.implementation
    given = concrete(op.params, params)
    groups: dict[Any, dict[str, MemoryChunk]] = {}
    results = dict(tensors)
    own = list(each) or [None] * (1 + len(others))
    for name, tensor in tensors.items():
        info = TensorInfo(_spec(name, tensor), architecture.role_of(name))
        key = implementation.key(info, given)
        if key is not None:
            models = [tensor, *(other[name] for other in others)]
            signature = signature_of(op, models, None, own, name=name, role=info.role)
            groups.setdefault(key, {})[name] = _chunk(op, signature, models, None, seed)
    for members in groups.values():
        made = implementation.apply(members, given)
        if notes is not None:
            notes.update({name: x.noted for name, x in members.items() if x.noted})
        for name, values in made.items():
            results[name] = _rounded(values, op.output(members[name].signature, given).dtype)
    return results


def concrete(kind: type[Params] | None, given: Any, depth: float = 0.0) -> Any:
    """Return parameters with a number where a ramp or a map stands: at `depth`, and the map's default."""
    kind = kind or Params
    params = given if isinstance(given, kind) else kind.model_validate(given or {})
    numbers = {}
    for field in kind.model_fields:
        value = getattr(params, field)
        if isinstance(value, Ramp | BySelector):
            numbers[field] = resolve(value, depth, lambda selector: False)
    return params.model_copy(update=numbers) if numbers else params


def signature_of(
    op: Op,
    models: Sequence[Tensor],
    base: Tensor | None,
    each: Sequence[Any],
    *,
    name: str = "w",
    depth: float = 0.0,
    numel: int | None = None,
    role: Role | None = None,
    companions: Beside[Tensor] | None = None,
) -> Signature:
    """Return what is known of a call on these tensors before a value is read."""
    first = models[0] if base is None else base
    return Signature(
        name=name,
        models=tuple(_spec(name, tensor) for tensor in models),
        base=None if base is None else _spec(name, base),
        each=tuple(concrete(op.each, entry, depth) for entry in each) if op.each else (),
        role=role or Role(),
        numel=first.numel() if numel is None else numel,
        companions=arranged(companions or {}, [_spec(name, one) for one in flat(companions or {})]),
    )


def _beside(op: Op, given: Beside[Tensor], models: int) -> Beside[Tensor]:
    """Return what stands beside so many models; those that nothing is given for have no companion."""
    return {name: given.get(name, (None,) * models) for name in op.companions}


def _in_order(op: Op, models: Models, each: Each | None) -> tuple[list[Tensor], list[Any]]:
    if isinstance(models, Mapping):
        names = list(models) if op.ordered else sorted(models)
        by_name = each if isinstance(each, Mapping) else {}
        return [models[name] for name in names], [by_name.get(name) for name in names]
    return list(models), list(each) if each is not None else [None] * len(models)


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), tag_of(str(tensor.dtype)))


def _copied(
    op: Op, signature: Signature, params: Any, models: Sequence[Tensor], base: Tensor | None
) -> Tensor | None:
    """Return the input whose bytes are the result, if the op says so or leaves vectors alone."""
    first = models[0] if base is None else base
    if op.vectors == "skip" and first.dim() < 2:
        return first
    index = op.simplify(signature, params) if op.simplify else None
    if index is None:
        return None
    if index != BASE:
        return models[index]
    if base is None:
        raise PluginError(f"op `{op.name}`: simplifies to a base that is not there; mend its `simplify`")
    return base


def _chunk(
    op: Op,
    signature: Signature,
    models: Sequence[Tensor],
    base: Tensor | None,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, Tensor] | None = None,
    companions: Beside[Tensor] | None = None,
    noted: dict[str, float] | None = None,
) -> MemoryChunk:
    """Return the whole tensor as the op sees it: a copy in the compute dtype."""
    beside = companions or {}
    given = [*models, *([] if base is None else [base]), *flat(beside)]
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in given) else torch.float32
    copies = [model.to(device, wide, copy=True) for model in models]
    below = None if base is None else base.to(device, wide, copy=True)
    near = arranged(beside, [one.to(device, wide, copy=True) for one in flat(beside)])
    whole = MemoryChunk(signature, copies, below, 0, op, seed, companions=near)
    whole.statistics, whole.noted = statistics or {}, {} if noted is None else noted
    return whole


def _require_untouched(
    whole: MemoryChunk, models: Sequence[Tensor], base: Tensor | None, beside: Beside[Tensor]
) -> None:
    given = [*models, *([] if base is None else [base]), *flat(beside)]
    kept = [*whole.models, *([] if whole.base is None else [whole.base]), *flat(whole.companions)]
    for before, after in zip(given, kept, strict=True):
        if not torch.equal(before.to(after).nan_to_num(nan=0.5), after.nan_to_num(nan=0.5)):
            raise PluginError(
                f"op `{whole.op.name}`: inputs untouched: it changed one; write to `x.out` or `x.scratch`"
            )


def _run(op: Op, params: Any, whole: MemoryChunk, chunk: int | None, gather: Callable[..., Any]) -> Tensor:
    match op.split_of(params):
        case Split.ELEMENT:
            parts = [_call(op, part, params) for part in _cuts(reshaped(whole, (-1,)), chunk)]
        case Split.ROW:
            rows = reshaped(whole, (-1, max(op.row(whole.signature.first), 1)))
            parts = [_call(op, part, params) for part in _cuts(rows, chunk)]
        case Split.REDUCE | Split.MODEL:
            flat = reshaped(whole, (-1,))
            found = gather(op, params, [flat])
            note_found(whole, params, found)
            apply = op.implementation.apply
            parts = [_held(op, part, apply(part, params, found)) for part in _cuts(flat, chunk)]
        case Split.TENSOR:
            parts = [_call(op, whole, params)]
        case split:
            raise PluginError(
                f"op `{op.name}`: is a {split.value} op; run it with another function of this module"
            )
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def note_found(whole: MemoryChunk, params: Any, found: Any) -> None:
    """Note what a REDUCE or MODEL op tells of what it found."""
    implementation: Reduce = whole.op.implementation
    if found is not None:
        for name, number in implementation.notes(whole.signature, params, found).items():
            whole.note(name, number)


def _call(op: Op, part: MemoryChunk, params: Any) -> Tensor:
    """Call an op that gathers nothing: a function, or the `__call__` of one that gathers under other parameters."""
    return _held(op, part, op.implementation(part, params))


def _held(op: Op, part: MemoryChunk, values: Tensor) -> Tensor:
    """Return a copy of what an op returned, which may be an input or a buffer, after holding it to its dtype."""
    if values.dtype != part.like.dtype and op.infer is None:
        raise PluginError(
            f"op `{op.name}`: dtype as inferred: got {values.dtype} for {part.like.dtype}; mend it"
        )
    return values.clone()


def _gather(
    op: Op, params: Any, wholes: Sequence[MemoryChunk], *, block: int = BLOCK, span: int | None = None
) -> Any:
    """Run the gather passes of a REDUCE or MODEL op over flat whole tensors; return what `apply` needs."""
    implementation: Reduce = op.implementation
    signature, found, done = wholes[0].signature, None, 0
    while (scan := implementation.scan(signature, params, found, done)) is not None:
        if scan is Scan.SAMPLE:
            blocks = [sample(whole) for whole in wholes]
        else:
            blocks = [part for whole in wholes for part in _cuts(whole, block)]
        step = span or len(blocks)
        spans = [
            reduce(
                implementation.fold, [implementation.gather(x, params, found) for x in blocks[at : at + step]]
            )
            for at in range(0, len(blocks), step)
        ]
        found = implementation.solve(signature, params, reduce(implementation.fold, spans), found)
        done += 1
    return found


def _cuts(whole: MemoryChunk, size: int | None) -> list[MemoryChunk]:
    """Return the chunk in parts of `size` elements or rows; one empty part of an empty tensor."""
    length = whole_shape(whole)[0]
    step = size or max(length, 1)
    return [cut(whole, start, min(start + step, length)) for start in range(0, max(length, 1), step)]


def _rounded(values: Tensor, dtype: str) -> Tensor:
    """Round once, as the engine does when it writes; what overflows becomes infinite."""
    nbytes = values.numel() * torch_dtype(dtype).itemsize
    stored = torch.empty(nbytes, dtype=torch.uint8, device=values.device)
    encode(values.contiguous(), dtype, stored)
    return stored.view(torch_dtype(dtype)).reshape(values.shape).cpu()
