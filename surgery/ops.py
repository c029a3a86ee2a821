"""The op contract: a pure function on tensors plus a declaration of what it may see.

The declaration is what lets one engine schedule everything:

    split     the function sees                          the engine may
    ELEMENT   the same range of every input, flat        cut anywhere, fuse chains
    ROW       whole rows [rows, row]                     cut by rows
    REDUCE    blocks to gather from, then as ELEMENT     stream each pass
    TENSOR    one whole tensor in its shape              one at a time, on the device
    GROUP     the tensors that a key collects            one group at a time
    MODEL     blocks of all tensors, then as ELEMENT     first pass gather, second pass apply
    LAYOUT    names and specs only, at plan time         move no bytes

An op that `emits` makes several stored tensors of one (codes and scales, two factors): it sees whole rows, or the
whole tensor, and returns them by name. An op that `needs` statistics of activations finds them in `x.statistics`.

A function declared with `@op` is an ELEMENT, ROW or TENSOR op; a class derived from `Reduce` or `Group` is one
of the others; `@layout_op` declares a layout op. Tensors arrive in float32 (float64 if an input is), and what is
returned is rounded once, when it is written. Ops must not change their inputs; `x.out` is theirs to write to.
This module imports no torch: planning needs only declarations.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

# What layout ops say, and what stands beside models, have modules of their own and are part of the contract: named
# again so that they are found here too.
# ruff: noqa: PLC0414
from surgery.companion import Beside as Beside
from surgery.companion import Companion as Companion
from surgery.errors import PluginError
from surgery.layout import Call as Call
from surgery.layout import File as File
from surgery.layout import Layout as Layout
from surgery.layout import ModelView as ModelView
from surgery.layout import Piece as Piece
from surgery.layout import Reading as Reading
from surgery.layout import Stack as Stack
from surgery.layout import Take as Take
from surgery.tensors import Role, TensorInfo, TensorSpec, promote

if TYPE_CHECKING:
    from torch import Tensor

# Gathers see a tensor in blocks of this many elements, aligned to its first element, whatever the chunk size,
# thread count or device: sums of floats then come out the same to the last bit. Changing it changes bytes.
BLOCK: Final = 1 << 17

# What a sampling pass sees of a large tensor: this many runs of this many elements, one in each of
# as many equal parts. Many short runs: the rows of a matrix may differ in scale.
SAMPLE_RUNS: Final = 256
SAMPLE_RUN: Final = 256

BASE: Final = -1  # stands for the base where models are counted 0, 1, 2, ...


# What the Hub calls `base_model_relation`.
Relation = Literal["adapter", "merge", "quantized", "finetune"]


class Split(StrEnum):
    """How an op's work may be cut; see the table above."""

    ELEMENT = "element"
    ROW = "row"
    REDUCE = "reduce"
    TENSOR = "tensor"
    GROUP = "group"
    MODEL = "model"
    LAYOUT = "layout"


class Space(StrEnum):
    """What a tensor's numbers mean, so that a delta is never taken for weights."""

    WEIGHT = "weight"
    DELTA = "delta"
    FACTORS = "factors"
    PACKED = "packed"
    MASK = "mask"
    STATISTIC = "statistic"


class Scan(StrEnum):
    """What a gather pass reads: every block, or a fixed sample of about 65,536 elements."""

    ALL = "all"
    SAMPLE = "sample"


class Need(StrEnum):
    """Statistics of the inputs that a Linear sees on calibration text, summed over all tokens in float64.

    The last two are for ops that layouts call with a `Reading`: hidden states before a layer, [prompts, hidden].
    """

    SQUARES = "squares"  # the sum of squares of every input feature, [in]
    TOKENS = "tokens"  # how many tokens it saw, [1]
    GRAM = "gram"  # XᵀX of the inputs X [tokens, in]: [in, in], symmetric; large, so that few ops should ask for it
    LAST = "last"  # of the last token of each prompt
    MEAN = "mean"  # the mean over the tokens of each prompt


class Params(BaseModel):
    """An op's parameters; unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class NoParams(Params):
    """Parameters of an op that has none."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known of a call before a value is read. Models that lack the tensor are left out of `models`."""

    name: str
    models: tuple[TensorSpec, ...]
    base: TensorSpec | None
    each: tuple[Params, ...]  # the parameters of each model in `models`, numbers for this tensor filled in
    role: Role
    numel: int  # elements of the tensor; of all that a MODEL op gathers from together
    places: tuple[int, ...] = ()  # where each of `models` stands among the step's; empty: all have the tensor
    # what stands beside each of `models`, by name
    companions: Beside[TensorSpec] = field(default_factory=dict, hash=False)

    def place(self, index: int) -> int:
        """Return where `models[index]` stands among the step's models, those that lack the tensor counted too."""
        return self.places[index] if self.places else index

    @property
    def first(self) -> TensorSpec:
        """Return the base's spec, or the first model's."""
        return self.base or self.models[0]


@dataclass(frozen=True, slots=True)
class Part:
    """One of several tensors that an op makes of one: its spec as it is stored, under its full name.

    `rows` is how many of the input's rows one row of it is made of (the last may be made of fewer); 0 if it does not
    depend on rows and is returned with the first ones only.
    """

    spec: TensorSpec
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made of a model, for ops that describe their result.

    `changed` maps the tensors that the op works on, by the names they have in its input, to what is known of them;
    `kept` are those that were copied. `source` is where the base, or the first model, came from, as the user wrote it.
    `tied` maps tensors that are not stored to those that they share their values with.
    """

    config: Mapping[str, Any]
    source: str
    changed: Mapping[str, Signature]
    kept: Mapping[str, TensorInfo]
    tied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """How a model is packed: its config and the names of its files; `sidecars`: whether a tokenizer belongs to it.

    `relation` is what it is to the models that it was made of and `library` what loads it, in the Hub's words; left
    out, they follow from its config and from how many models these are.
    """

    config: Mapping[str, Any]
    config_file: str = "config.json"
    stem: str = "model"
    sidecars: bool = True
    relation: Relation | None = None
    library: str | None = None


class Chunk(Protocol):
    """What an op sees: the same range of every input. Inputs are read-only, `out` and scratch are the op's."""

    signature: Signature
    models: Sequence[Tensor]
    base: Tensor | None
    start: int  # index in the tensor of the first element seen
    statistics: Mapping[str, Tensor]  # what the op needs, by `Need`
    companions: Beside[Tensor]  # what stands beside each of `models`, by name; None where there is nothing

    @property
    def out(self) -> Tensor:
        """A buffer of the chunk's shape and compute dtype; returning it saves an allocation and a copy."""
        ...

    def scratch(self, index: int) -> Tensor:
        """Return the op's scratch buffer `index` (below the `buffers` it declared), shaped like `out`."""
        ...

    def uniform(self, stream: int = 0) -> Tensor:
        """Return draws in [0, 1), a function of (seed, op, tensor name, stream, element index) alone.

        The buffer is the same for every call on a chunk: use the draws before asking for more.
        """
        ...

    def note(self, name: str, number: float) -> None:
        """Note a finite number about a tensor that is seen whole (TENSOR, GROUP), such as an error.

        `name` is of letters and underscores, and new in the call. The report of a run tells it beside the tensor.
        """
        ...


class Reduce(ABC):
    """An op that gathers something small over its tensor (or model), then applies it range by range.

    The engine runs `found = None; while scan(...): found = solve(fold of gather(...))`, then `apply` with `found`.
    """

    gathers: int = 1

    def scan(self, signature: Signature, params: Any, found: Any, done: int) -> Scan | None:
        """Say what gather pass `done` reads, None to start applying."""
        return Scan.ALL if done < self.gathers else None

    @abstractmethod
    def gather(self, x: Chunk, params: Any, found: Any) -> Any:
        """Return what one block of at most BLOCK elements contributes; must not keep references to `x`."""

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total; called in the order of the blocks. May change `total` in place."""
        return total + part

    def solve(self, signature: Signature, params: Any, total: Any, found: Any) -> Any:
        """Turn a pass's total into what the next pass, or `apply`, needs."""
        return total

    def rests_on(self, signature: Signature, params: Any) -> Hashable | None:
        """Return the parameters that decide, beside the inputs, what is found; None: all of them.

        A search that varies other parameters then gathers once. What is found must not change in `apply`.
        """
        return None

    def notes(self, signature: Signature, params: Any, found: Any) -> Mapping[str, float]:
        """Return finite numbers about what was found, by name, for the report: see `Chunk.note`.

        Asked once for each tensor, and not where nothing was found (None).
        """
        return {}

    @abstractmethod
    def apply(self, x: Chunk, params: Any, found: Any) -> Tensor:
        """Return the result on a range of the tensor."""


class Group(ABC):
    """An op on several tensors of one model at once: heads of a layer, experts of a layer."""

    @abstractmethod
    def key(self, tensor: TensorInfo, params: Any) -> Hashable | None:
        """Return what the members of a group have in common; None leaves the tensor as it is."""

    @abstractmethod
    def apply(self, members: Mapping[str, Chunk], params: Any) -> Mapping[str, Tensor]:
        """Return a tensor for every member's name, in the members' shapes or those that `infer` declares."""


Vectors = Literal["same", "skip", "row"]
Rest = Literal["copy", "drop"]
Shapes = Literal["same", "any"]
BaseUse = Literal["required", "optional", "none"]


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
    family, dot, method = name.partition(".")
    if not (dot and family.isidentifier() and method.isidentifier()):
        raise PluginError(f"op `{name}`: a name is `family.method`; rename it")

    def declare(target: Any) -> Op:
        implementation, default = _implementation(name, target)
        fixed = split if isinstance(split, Split) else None
        if shapes == "any" and not {*splits, fixed or default} <= {Split.TENSOR, Split.GROUP}:
            raise PluginError(f"op `{name}`: `shapes` may be any for TENSOR and GROUP ops only; leave it out")
        _require_named(name, companions or {}, each, {*splits, fixed or default})
        return Op(
            name=name,
            summary=_summary(name, target),
            doc=inspect.getdoc(target) or "",
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


def _summary(name: str, target: Any) -> str:
    """Return the first line of the docstring, which every op must have."""
    doc = inspect.getdoc(target)
    if not doc or (inspect.isclass(target) and "__doc__" not in vars(target)):
        raise PluginError(f"op `{name}`: has no docstring; its first line is shown in `surgery ops`")
    return doc.partition("\n")[0].strip()


def ops_in(package: str) -> list[Op]:
    """Import every public module of a package and return the ops that they define, sorted by name."""
    return declared_in(package, Op)


class Declared(Protocol):
    """Something that a decorator made in a plugin's module."""

    @property
    def name(self) -> str:
        """Return its name, `family.method`."""
        ...

    @property
    def module(self) -> str:
        """Return the module that defines it."""
        ...


D = TypeVar("D", bound=Declared)


def declared_in(package: str, kind: type[D]) -> list[D]:
    """Import every public module of a package and return what they declare of one kind, sorted by name."""
    root = importlib.import_module(package)
    found: dict[str, D] = {}
    for module_info in pkgutil.iter_modules(getattr(root, "__path__", [])):
        if not module_info.name.startswith("_"):
            _collect(importlib.import_module(f"{package}.{module_info.name}"), kind, found)
    _collect(root, kind, found)
    return [found[name] for name in sorted(found)]


def _collect(module: Any, kind: type[D], found: dict[str, D]) -> None:
    for value in vars(module).values():
        if isinstance(value, kind) and value.module == module.__name__:
            found[value.name] = value
