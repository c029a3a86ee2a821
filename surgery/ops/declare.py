"""Decorators that make an op of a function or class, and what they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from surgery.companion import Companion
from surgery.errors import PluginError
from surgery.ops.declared import require_name, told_of
from surgery.ops.group import Group
from surgery.ops.kinds import BaseUse, Need, Rest, Shapes, Space, Split, Vectors
from surgery.ops.made import Description, Made, Part
from surgery.ops.record import Op
from surgery.ops.reduce import Reduce
from surgery.ops.signature import NoParams, Params, Signature
from surgery.tensors import TensorSpec

Decorator = Callable[[Any], Op]


def op(
    name: str,
    *,
    split: Split | Callable[[Any], Split] | None = None,
    splits: Sequence[Split] = (),
    params: type[Params] = NoParams,
    each: type[Params] | None = None,
    base: BaseUse = "none",
    models: int | tuple[int, int | None] = (1, None),
    ordered: bool = False,
    takes: Space = Space.WEIGHT,
    gives: Space = Space.WEIGHT,
    infer: Callable[[Signature, Any], TensorSpec] | None = None,
    simplify: Callable[[Signature, Any], int | None] | None = None,
    check: Callable[[Signature, Any], str | None] | None = None,
    vectors: Vectors = "same",
    rest: Rest = "copy",
    shapes: Shapes = "same",
    partial: bool = False,
    note: str = "",
    propagates: bool = False,
    buffers: int = 0,
    workspace: Callable[[Signature, Any], int] | None = None,
    pool: Callable[[Signature, Any], Hashable] | None = None,
    emits: Callable[[Signature, Any], Sequence[Part]] | None = None,
    describe: Callable[[Made, Any], Description] | None = None,
    needs: Sequence[Need] = (),
    companions: Mapping[str, Companion] | None = None,
    cite: str = "",
    version: int = 1,
) -> Decorator:
    """Declare an op `family.method`.

    split       how the work may be cut; ELEMENT for a function, REDUCE or GROUP for a class. A function of the
                parameters when a parameter decides (`scope: model`); then `splits` lists what it may return
    params      the step's parameters; `each` those of every model in its `models:`
    base        whether the step takes `base:`
    models      how many models: a number, or (least, most) with None for no limit
    ordered     the models' order matters; otherwise they are sorted by name so that it cannot
    takes gives spaces of the inputs and of the result
    infer       (signature, params) -> the result's spec, if it differs from the first input's
    simplify    (signature, params) -> index of the input whose bytes are the result (BASE for the base), or None
    check       (signature, params) -> what is wrong with a tensor's numbers, or None; called at plan time
    vectors     `skip`: tensors of fewer than two dimensions are copied from the base or the first model;
                `row`: a ROW op that emits nothing sees a vector as one row, not as rows of one element
    rest        `drop`: tensors that it does not work on are left out, for they are no masks, factors or deltas
    shapes      `any`: a tensor's shapes may differ between models, `check` says what fits and `infer` what comes of
                it; for TENSOR and GROUP ops, which see whole tensors
    partial     its models need not have every tensor of the base, which are copied then; they may have no others
    note        what a plan tells everyone who uses it
    propagates  NaN or Inf in any input always shows in the result, so that only the result is checked
    buffers     scratch buffers of a chunk's size that the op asks for
    workspace   (signature, params) -> bytes of temporaries of a TENSOR or GROUP op; by default three times its inputs
    pool        (signature, params) -> what the tensors have in common that a MODEL op gathers from together, such as
                their layer; by default it gathers from all of them. Parameters must be equal within a pool
    emits       (signature, params) -> the tensors that it makes of one, which it then returns as a mapping from names
                to tensors in their stored dtypes (floats also in the compute dtype). It is a ROW op, or a Reduce
                whose `apply` sees whole rows, or a TENSOR op
    describe    (what was made, params) -> config.json and file names, where they are not the input's
    needs       statistics of activations that it looks at; the recipe's `calibration:` says on which text
    companions  tensors that it wants beside each model's, by the parameter of `each` that names the checkpoint or step
                which holds them; of the tensor's own shape where the work is cut
    cite        where the method comes from
    version     raise it when the numbers change, so that old journals are not trusted
    """
    require_name("op", name)

    def declare(target: Any) -> Op:
        implementation, default = _implementation(name, target)
        fixed = split if isinstance(split, Split) else None
        _require_call(name, implementation, {*splits, fixed or default})
        if shapes == "any" and not {*splits, fixed or default} <= {Split.TENSOR, Split.GROUP}:
            raise PluginError(f"op `{name}`: `shapes` may be any for TENSOR and GROUP ops only; leave it out")
        summary, doc = told_of("op", name, target)
        _require_named(name, companions or {}, each, {*splits, fixed or default})
        return Op(
            name=name,
            summary=summary,
            doc=doc,
            implementation=implementation,
            params=params,
            split_of=split if callable(split) else (lambda _: fixed or default),
            splits=tuple(splits) or (fixed or default,),
            each=each,
            base=base,
            models=(models, models) if isinstance(models, int) else models,
            ordered=ordered,
            takes=takes,
            gives=gives,
            infer=infer,
            simplify=simplify,
            check=check,
            vectors=vectors,
            rest=rest,
            shapes=shapes,
            partial=partial,
            note=note,
            propagates=propagates,
            buffers=buffers,
            workspace=workspace,
            pool=pool,
            emits=emits,
            describe=describe,
            needs=tuple(needs),
            companions=dict(companions or {}),
            cite=cite,
            version=version,
            module=getattr(target, "__module__", ""),
        )

    return declare


def layout_op(
    name: str,
    *,
    params: type[Params] = NoParams,
    base: BaseUse = "none",
    models: int | tuple[int, int | None] = (1, None),
    cite: str = "",
    version: int = 1,
) -> Decorator:
    """Declare a layout op: a function (models by name, the base first, params) -> Layout that moves no bytes."""
    split = Split.LAYOUT
    return op(
        name, split=split, params=params, base=base, models=models, ordered=True, cite=cite, version=version
    )


def _implementation(name: str, target: Any) -> tuple[Any, Split]:
    """Return what the engine calls, and the split it has when none is declared."""
    if not inspect.isclass(target):
        return target, Split.ELEMENT
    if issubclass(target, Reduce):
        return target(), Split.REDUCE
    if issubclass(target, Group):
        return target(), Split.GROUP
    raise PluginError(f"op `{name}`: a class must derive from Reduce or Group, got {target.__name__}")


def _require_call(name: str, implementation: Any, splits: set[Split]) -> None:
    """Refuse a class that gathers under some parameters only, and has nothing to be called by under the others."""
    others = sorted(split.value for split in splits - {Split.REDUCE, Split.MODEL})
    if isinstance(implementation, Reduce) and others and not callable(implementation):
        raise PluginError(
            f"op `{name}`: as {' or '.join(others)} op it is called, not applied, got a class without `__call__`; "
            "define `__call__(self, x, params)`"
        )


def _require_named(
    name: str, companions: Mapping[str, Companion], each: type[Params] | None, splits: set[Split]
) -> None:
    """Refuse companions that no recipe could name, or that no call would see."""
    known = each.model_fields if each else {}
    for companion in companions:
        if companion not in known:
            what = f"companion `{companion}` is no parameter of `each`, where a recipe names what holds it"
            raise PluginError(f"op `{name}`: {what}; declare `{companion}: str`")
    if companions and splits & {Split.GROUP, Split.LAYOUT}:
        raise PluginError(f"op `{name}`: an op on groups or layouts has no companions; leave them out")
