"""A registered op, as the engine knows it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.companion import Companion
from surgery.ops.kinds import BaseUse, Need, Rest, Shapes, Space, Split, Vectors
from surgery.ops.made import Description, Made, Part
from surgery.ops.signature import Params, Signature
from surgery.tensors import TensorSpec, promote


@dataclass(frozen=True, slots=True)
class Op:
    """A registered op: its implementation and its declaration."""

    name: str
    summary: str
    doc: str
    implementation: Any
    params: type[Params]
    split_of: Callable[[Any], Split]
    splits: tuple[Split, ...]
    each: type[Params] | None = None
    base: BaseUse = "none"
    models: tuple[int, int | None] = (1, None)
    ordered: bool = False
    takes: Space = Space.WEIGHT
    gives: Space = Space.WEIGHT
    infer: Callable[[Signature, Any], TensorSpec] | None = None
    simplify: Callable[[Signature, Any], int | None] | None = None
    check: Callable[[Signature, Any], str | None] | None = None
    vectors: Vectors = "same"
    rest: Rest = "copy"
    shapes: Shapes = "same"
    partial: bool = False
    note: str = ""
    propagates: bool = False
    buffers: int = 0
    workspace: Callable[[Signature, Any], int] | None = None
    pool: Callable[[Signature, Any], Hashable] | None = None
    emits: Callable[[Signature, Any], Sequence[Part]] | None = None
    describe: Callable[[Made, Any], Description] | None = None
    needs: tuple[Need, ...] = ()
    companions: Mapping[str, Companion] = field(default_factory=dict)
    cite: str = ""
    version: int = 1
    module: str = ""

    @property
    def family(self) -> str:
        """Return the part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def takes_one(self) -> bool:
        """Return whether a step names its input `model:` rather than `models:`."""
        return self.models[1] == 1

    def row(self, spec: TensorSpec) -> int:
        """Return the elements of a row as a ROW op sees it."""
        return spec.numel if self.vectors == "row" and len(spec.shape) == 1 else spec.row

    def output(self, signature: Signature, params: Any) -> TensorSpec:
        """Return the result's spec: by default the shape of the first input and the dtype that holds all."""
        if self.infer is not None:
            return self.infer(signature, params)
        specs = [*signature.models, *([signature.base] if signature.base else [])]
        return TensorSpec(signature.name, signature.first.shape, promote([spec.dtype for spec in specs]))

    def __call__(self, *args: Any) -> Any:
        """Call the implementation: for tests and for ops built on other ops."""
        return self.implementation(*args)
