"""What a kind of adapter is told of one module, and what it says becomes of the module's weight and bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula
from surgery_hf.peft_scales import LoraConfig


class DoesNotFit(Exception):
    """A tensor of the adapter does not fit the base: which, and `what; what to do`."""

    def __init__(self, tensor: str, what: str) -> None:
        super().__init__(tensor, what)
        self.tensor, self.what = tensor, what


@dataclass(frozen=True, slots=True)
class Module:
    """One module of an adapter: its tensors by the ends of their names, and the base's weight.

    `specs` are all tensors of the adapter, those that modules share among them; `said` is its config, `scales` what
    the config says of ranks and scales.
    """

    name: str
    parts: Mapping[str, str]
    specs: Mapping[str, TensorSpec]
    weight: TensorSpec
    said: Mapping[str, Any]
    scales: LoraConfig

    @property
    def rows(self) -> int:
        """Return the rows of the base's weight."""
        return self.weight.shape[0] if self.weight.shape else 1

    @property
    def columns(self) -> int:
        """Return the elements of a row: of a convolution, all of a kernel."""
        return math.prod(self.weight.shape[1:])

    def need(self, *suffixes: str) -> list[str]:
        """Return the tensors with these ends. Raises DoesNotFit if one is missing."""
        missing = [suffix for suffix in suffixes if suffix not in self.parts]
        if missing:
            what = f"stands without its `{missing[0][1:]}`; save the adapter again"
            raise DoesNotFit(self.first, what)
        return [self.parts[suffix] for suffix in suffixes]

    @property
    def first(self) -> str:
        """Return the tensor that messages name."""
        return next(iter(self.parts.values()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the adapter."""
        return self.specs[name].shape

    def refuse(self, tensor: str) -> DoesNotFit:
        """Return the finding that a tensor's shape is not one for the base's weight."""
        what = f"has shape {self.shape(tensor)}, the base's weight {self.weight.shape}"
        return DoesNotFit(tensor, f"{what}; fold it into the base that it was trained on")


@dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of a module's weight, and of its bias if it has one."""

    weight: Formula
    bias: Formula | None = None


def words(text: str) -> frozenset[str]:
    """Return the words of a text: names of settings."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of adapter: how its tensors' names end, the settings that are understood, and its formula.

    `shared` are tensors that belong to no module; `refused` are settings that cannot be folded, with the reason.
    `scaled`: it has a rank and an `alpha`, and patterns of both. Tensors whose names end with one of `integers` are
    places, not numbers. `changes` raises DoesNotFit.
    """

    name: str
    suffixes: tuple[str, ...]
    settings: frozenset[str]
    changes: Callable[[Module], Changes]
    shared: tuple[str, ...] = ()
    refused: Mapping[str, str] | None = None
    scaled: bool = False
    integers: tuple[str, ...] = ()
