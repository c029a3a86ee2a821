"""Which tensors are compressed-tensors' weights: `pack-quantized`, `int-quantized` and `float-quantized`.

A group of `quantization_config` says of the modules that its targets name how their weights are coded. A target is a
module's full name, `re:` and a regular expression, or a class such as `Linear`. Files do not tell classes: a weight
that no name matches is held against every group, and one of them alone must fit the shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgery.math.packing import words_for
from surgery.recipe.regex import search_in
from surgery.tensors import TensorSpec
from surgery_hf.quantized.claims import FLOATS, Claims, matrix
from surgery_hf.quantized.scaled import Cells, Packed, Plain, Scaled, cells_for

FORMATS: Final = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


@cache
def _names(target: str) -> Callable[[str], bool]:
    """Return a test for the modules that a target names. Raises ValueError for an expression that takes too long."""
    if target.startswith("re:"):
        return search_in(rf"\A(?:{target.removeprefix('re:')})")
    return target.__eq__


def _checked(target: str) -> str:
    _names(target)
    return target


_Size = Annotated[int, Field(ge=1)]
_Target = Annotated[str, AfterValidator(_checked)]


class Weights(BaseModel):
    """How a group's weights are coded; keys that are not known could change what the codes mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_bits: Annotated[int, Field(ge=2, le=8)] = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "block"] | None = None
    group_size: int | None = None
    block_structure: tuple[_Size, _Size] | None = None
    dynamic: Literal[False] = False
    actorder: Literal["group", "dynamic", "weight", "static", False] | None = None
    # how the numbers were found and kept: the stored tensors say it themselves
    scale_dtype: Any = None
    zp_dtype: Any = None
    observer: Any = None
    observer_kwargs: Any = None

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.kind == "group" and (self.group_size or 0) < 1:
            raise ValueError(f"`strategy: group` needs a `group_size` of at least 1, got {self.group_size}")
        if self.kind == "block" and self.block_structure is None:
            raise ValueError("`strategy: block` needs a `block_structure`")
        return self

    @property
    def kind(self) -> str:
        """Return the strategy; without one the group size says it."""
        if self.strategy:
            return self.strategy
        return "tensor" if self.group_size is None else "channel" if self.group_size == -1 else "group"

    def cells(self, shape: tuple[int, int]) -> Cells:
        """Return the cells that scales are kept in for a matrix of this shape."""
        sizes = {"tensor": shape, "channel": (1, shape[1]), "group": (1, self.group_size or 1)}
        return cells_for(
            shape, *(self.block_structure or shape if self.kind == "block" else sizes[self.kind])
        )


class _Group(BaseModel):
    """One group: what it applies to and how."""

    targets: list[_Target]
    weights: Weights | None = None
    format: str | None = None

    def names(self, module: str) -> bool:
        """Return whether a target names the module, as itself or by an expression."""
        return any(_names(target)(module) for target in self.targets)


class _Config(BaseModel):
    """The parts of `quantization_config` that say what is stored."""

    format: str | None = None
    config_groups: dict[str, _Group]
    sparsity_config: dict[str, Any] | None = None
    transform_config: dict[str, Any] | None = None

    def problems(self) -> Iterator[str]:
        """Yield what is not decoded."""
        for name, group in self.config_groups.items():
            form = group.format or self.format
            if group.weights is not None and form not in FORMATS:
                known = ", ".join(f"`{known}`" for known in FORMATS)
                yield f"`quantization_config.config_groups.{name}`: format `{form}` is not decoded, known: {known}"
        if (self.sparsity_config or {}).get("format", "dense") != "dense":
            yield "`quantization_config.sparsity_config`: sparse weights are not decoded"
        if self.transform_config:
            yield "`quantization_config.transform_config`: weights that were rotated are not decoded"


def claim(claims: Claims) -> None:
    """Claim every weight that a group of `quantization_config` describes."""
    groups = _groups(claims)
    if groups is None:
        return
    for module, packed in claims.ending(".weight_packed"):
        _choose(claims, module, packed, groups, _packed)
    for module, codes in claims.ending(".weight"):
        if codes.dtype in ("I8", "F8_E4M3"):
            _choose(claims, module, codes, groups, _plain)
    claims.hide_activations()
    claims.left_over()


def _groups(claims: Claims) -> list[_Group] | None:
    """Return the groups that quantize weights; None after noting what is wrong with them."""
    try:
        config = _Config.model_validate(dict(claims.settings))
    except ValidationError as error:
        for wrong in error.errors():
            where = ".".join(("quantization_config", *map(str, wrong["loc"])))
            told = wrong["msg"].removeprefix("Value error, ")
            claims.problems.append(f"`{where}`: {told[:1].lower()}{told[1:]}, got {wrong['input']!r:.80}")
        return None
    problems = list(config.problems())
    claims.problems.extend(problems)
    return None if problems else [group for group in config.config_groups.values() if group.weights]


Build = Callable[[Claims, str, TensorSpec, Weights], Scaled | None]


def _choose(claims: Claims, module: str, codes: TensorSpec, groups: list[_Group], build: Build) -> None:
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
    shapes = [cells.shape] if weights.kind != "tensor" else [(), (1,), (1, 1)]
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
