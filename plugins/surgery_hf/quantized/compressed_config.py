"""What `quantization_config` says of compressed-tensors' weights.

A group of `quantization_config` says of the modules that its targets name how their weights are coded. A target is a
module's full name, `re:` and a regular expression, or a class such as `Linear`. Files do not tell classes: a weight
that no name matches is held against every group, and one of them alone must fit the shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgery.recipe.regex import search_in
from surgery_hf.quantized.claims import Claims
from surgery_hf.quantized.scaled import Cells, cells_for

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


class Group(BaseModel):
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
    config_groups: dict[str, Group]
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


def read_groups(claims: Claims) -> list[Group] | None:
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
