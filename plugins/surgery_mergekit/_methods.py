"""mergekit's methods: which op does each, what its parameters are called here, and what they are by default there.

Each entry states the facts of release 0.1.5. Defaults are written into the recipe, so that nothing depends on ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

REQUIRED: Final = object()

Kind = Literal["number", "switch", "count"]
BaseUse = Literal["required", "optional", "input", "start"]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its name in our op, what it holds, mergekit's default, and other words for its values here.

    None as a default writes nothing. `unbiased` takes the place of `words` unless mergekit's numbers are asked for.
    """

    native: str
    kind: Kind
    default: Any
    words: Mapping[Any, Any] = field(default_factory=dict)
    unbiased: Mapping[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its op, how it uses the base, how many models it takes, its parameters.

    base    required, optional; `input`: one model among others; `start`: one of two models, the end t = 0
    models  how many there are beside the base (with it, for `input`)
    each    parameters of each model; those of the base are not read unless it is an input
    step    parameters of a whole step
    fixed   what our op is told besides, so that it does what mergekit does
    """

    op: str
    base: BaseUse
    models: tuple[int, int | None] = (1, None)
    each: Mapping[str, Param] = field(default_factory=dict)
    step: Mapping[str, Param] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> frozenset[str]:
        """Return mergekit's names of all parameters."""
        return frozenset([*self.each, *self.step])


def _number(native: str, default: Any = REQUIRED) -> Param:
    return Param(native, "number", default)


def _switch(native: str, default: bool, **words: Any) -> Param:
    return Param(native, "switch", default, **words)


_WEIGHT: Final = {"weight": _number("weight")}
_DENSITY: Final = {**_WEIGHT, "density": _number("density", 1.0)}
_LAMBDA: Final = {"lambda": _number("lambda", 1.0)}
_L1: Final = {True: "l1", False: "none"}
_INVERSE: Final = {True: "inverse", False: "none"}


def _deltas(*, normalize: bool, rescale: bool, inverse: bool = False) -> dict[str, Param]:
    """Return the parameters of a step that thins deltas out; `inverse`: the paper's factor is not mergekit's."""
    factor = Param("rescale", "switch", rescale, _L1, _INVERSE if inverse else _L1)
    return {**_LAMBDA, "normalize": _switch("normalize", normalize), "rescale": factor}


_DARE: Final = _deltas(normalize=False, rescale=True, inverse=True)
_EPSILON: Final = {**_DENSITY, "epsilon": _number("epsilon", 0.15)}
_GAMMA: Final = {**_DENSITY, "gamma": _number("gamma", 0.01)}
_CRUMBS: Final = _deltas(normalize=False, rescale=False)
_RAM: Final = {"epsilon": _number("epsilon", 1e-5)}

METHODS: Final[Mapping[str, Method]] = {
    "linear": Method(
        "merge.linear", "input", each=_WEIGHT, step={"normalize": _switch("normalize", default=True)}
    ),
    "slerp": Method("merge.slerp", "start", (1, 1), step={"t": _number("t")}),
    "nuslerp": Method(
        "merge.nuslerp",
        "optional",
        (2, 2),
        each=_WEIGHT,
        step={
            "nuslerp_flatten": _switch("flatten", default=True),
            # `row_wise: false` normalises along the last dimension, which are the rows of a matrix [out, in]
            "nuslerp_row_wise": _switch("axis", default=False, words={True: "columns", False: "rows"}),
        },
    ),
    "multislerp": Method(
        "merge.multislerp",
        "optional",
        each=_WEIGHT,
        step={"normalize_weights": _switch("normalize_weights", default=True), "eps": _number("eps", 1e-8)},
    ),
    "karcher": Method(
        "merge.karcher",
        "input",
        step={"max_iter": Param("max_iter", "count", 10), "tol": _number("tol", 1e-5)},
    ),
    "task_arithmetic": Method(
        "merge.task_arithmetic",
        "required",
        each=_WEIGHT,
        step={**_LAMBDA, "normalize": _switch("normalize", default=False)},
    ),
    "ties": Method("merge.ties", "required", each=_DENSITY, step=_deltas(normalize=True, rescale=False)),
    "dare_linear": Method("merge.dare_linear", "required", each=_DENSITY, step=_DARE),
    "dare_ties": Method("merge.dare_ties", "required", each=_DENSITY, step=_DARE),
    "della": Method(
        "merge.della",
        "required",
        each=_EPSILON,
        step=_deltas(normalize=True, rescale=True, inverse=True),
    ),
    "della_linear": Method("merge.della_linear", "required", each=_EPSILON, step=_DARE),
    "breadcrumbs": Method("merge.breadcrumbs", "required", each=_GAMMA, step=_CRUMBS),
    "breadcrumbs_ties": Method("merge.breadcrumbs_ties", "required", each=_GAMMA, step=_CRUMBS),
    "sce": Method("merge.sce", "required", step={"select_topk": _number("select_topk", 1.0)}),
    "ram": Method("merge.ram", "required", step=_RAM),
    "ramplus_tl": Method(
        "merge.ramplus", "required", step={"r": _number("r", 0.1), "alpha": _number("alpha", 0.2), **_RAM}
    ),
    "model_stock": Method(
        "merge.model_stock",
        "required",
        (2, None),
        step={"filter_wise": _switch("filter_wise", default=False)},
        fixed={"clamp": False},
    ),
    "nearswap": Method("merge.nearswap", "required", (1, 1), step={"t": _number("t")}),
    "arcee_fusion": Method("merge.arcee_fusion", "required", (1, 1)),
    "passthrough": Method("merge.passthrough", "input", (1, 1), each={"scale": _number("scale", None)}),
}

# Known to some method there, so that other methods pass over them; `int8_mask` is known to all and does nothing.
PASSED_OVER: Final = frozenset(name for method in METHODS.values() for name in method.parameters) | {
    "int8_mask"
}

# Stands in for a word that is none of these, so that the rest of a document is still looked at.
UNKNOWN: Final = Method("", "input", each={name: _number(name, None) for name in PASSED_OVER})
