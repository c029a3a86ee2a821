"""The contracts of `surgery search`: what proposes candidates, and what scores them. Imports no torch.

    sampler     proposes a value for every gene of a recipe's holes, and is told how good the candidate was
    evaluator   opens something that candidates' tensors are copied into, and scores what it holds
    resident    what an evaluator opened: a model that stays where it is while its weights change

`@sampler` and `@evaluator` declare classes of plugins as `@op` declares ops; `surgery_register_samplers` and
`surgery_register_evaluators` hand them over.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery.errors import PluginError
from surgery.ops import NoParams, Params
from surgery.ops.declared import declared_in, require_name, told_of
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

Value = float | int | str | bool
Score = float | Mapping[str, float]

# Digits that a number found by a search keeps: recipes stay readable, and no metric tells more digits apart.
DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Gene:
    """One number or choice that a search varies.

    name      where it stands in the recipe
    low high  the ends of a range of numbers
    log       whether the range is even in the logarithm
    choices   what may be chosen, in the order written; then there is no range
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    def at(self, share: float) -> Value:
        """Return the value that lies `share` of the way (0 to 1) from the low end to the high one."""
        share = min(max(share, 0.0), 1.0)
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.log:
            return self.rounded(math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share))
        return self.rounded(self.low * (1 - share) + self.high * share)

    def rounded(self, number: float) -> float:
        """Return a number of the range as a recipe says it: with `DIGITS` digits, within the ends."""
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)


class Sampler(ABC):
    """Proposes candidates one after another; every proposal is told before the next is asked for.

    The same genes, parameters, seed and scores give the same proposals: resuming a search rests on it.
    """

    @abstractmethod
    def __init__(self, genes: Sequence[Gene], params: Any, seed: int) -> None:
        """Get ready to propose values of `genes`. Raises SurgeryError for genes that it cannot vary."""

    @abstractmethod
    def ask(self) -> Sequence[Value] | None:
        """Return a value for every gene, in their order; None when there is nothing left to propose."""

    @abstractmethod
    def tell(self, values: Sequence[Value], score: float) -> None:
        """Learn how good the last proposal was: lower is better, always finite; failures get the worst score yet."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an evaluator is told of the candidates before it sees one.

    config    their config.json
    sidecars  the files that belong to the model (tokenizer, ...), name -> path
    tensors   names, shapes and stored dtypes
    folder    the recipe's folder, which paths in parameters are relative to
    device    where to compute, as torch names it
    """

    config: Mapping[str, Any]
    sidecars: Mapping[str, Path]
    tensors: Mapping[str, TensorSpec]
    folder: Path
    device: str = "cpu"


class Resident(ABC):
    """What an evaluator keeps while candidates come and go."""

    @abstractmethod
    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy tensors (on the CPU, in their stored dtype) over those of these names; the others stay as they are."""


class Evaluator(ABC):
    """Scores candidates. One instance serves a whole search; what depends on a candidate lives in the resident."""

    def check(self, subject: Subject, params: Any) -> None:  # noqa: B027 - many have nothing to check
        """Look for what would make every candidate fail (a missing file). Raises SurgeryError that says it."""

    def files(self, subject: Subject, params: Any) -> Collection[Path]:
        """Return the files that scores rest on: a search does not go on when one has changed. Asked after `check`."""
        return ()

    @abstractmethod
    def open(self, subject: Subject, params: Any) -> Resident:
        """Return something that holds all of the subject's tensors; their values are loaded before it is scored."""

    @abstractmethod
    def score(self, resident: Resident, params: Any) -> Score:
        """Return the score of what was loaded last, or several numbers by name, of which `score` is the score."""


@dataclass(frozen=True, slots=True)
class SamplerKind:
    """A registered sampler."""

    name: str
    summary: str
    doc: str
    make: Callable[[Sequence[Gene], Any, int], Sampler]
    params: type[Params]
    cite: str = ""
    module: str = ""


@dataclass(frozen=True, slots=True)
class EvaluatorKind:
    """A registered evaluator. `executes`: it runs code that the recipe names, which users must allow."""

    name: str
    summary: str
    doc: str
    make: Callable[[], Evaluator]
    params: type[Params]
    executes: bool = False
    cite: str = ""
    module: str = ""


def sampler(
    name: str, *, params: type[Params] = NoParams, cite: str = ""
) -> Callable[[type[Sampler]], SamplerKind]:
    """Declare a sampler `family.method`; `params` are what a recipe may set, `cite` is where it comes from."""
    require_name("sampler", name)

    def declare(target: type[Sampler]) -> SamplerKind:
        _check_class("sampler", name, target, Sampler)
        return SamplerKind(name, *told_of("sampler", name, target), target, params, cite, target.__module__)

    return declare


def evaluator(
    name: str, *, params: type[Params] = NoParams, executes: bool = False, cite: str = ""
) -> Callable[[type[Evaluator]], EvaluatorKind]:
    """Declare an evaluator `family.method`; `executes` says that it runs code that a recipe names."""
    require_name("evaluator", name)

    def declare(target: type[Evaluator]) -> EvaluatorKind:
        _check_class("evaluator", name, target, Evaluator)
        told = told_of("evaluator", name, target)
        return EvaluatorKind(name, *told, target, params, executes, cite, target.__module__)

    return declare


def samplers_in(package: str) -> list[SamplerKind]:
    """Import every public module of a package and return the samplers that they define, sorted by name."""
    return declared_in(package, SamplerKind)


def evaluators_in(package: str) -> list[EvaluatorKind]:
    """Import every public module of a package and return the evaluators that they define, sorted by name."""
    return declared_in(package, EvaluatorKind)


def _check_class(what: str, name: str, target: Any, base: type) -> None:
    if not (isinstance(target, type) and issubclass(target, base)):
        raise PluginError(
            f"{what} `{name}`: must be a class that derives from {base.__name__}, got {target!r}"
        )
