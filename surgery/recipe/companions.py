"""What stands beside the models of a step: names that steps give only once their op is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.companion import Beside
from surgery.errors import did_you_mean
from surgery.ops import Op, Params
from surgery.recipe.document import Problem, shown
from surgery.recipe.references import circles

if TYPE_CHECKING:
    from surgery.recipe.resolve_ops import ResolvedStep


def named(op: Op, each: Sequence[Params]) -> Beside[str]:
    """Return which checkpoint or step holds each companion of each model, as its parameters say."""
    return {name: tuple(getattr(params, name, None) for params in each) for name in op.companions}


def companion_problems(steps: Mapping[str, ResolvedStep], known: Sequence[str]) -> Iterator[Problem]:
    """Yield the companions that no model or step holds, and the circles that they close."""
    beside = [step for step in steps.values() if step.companions]
    for step in beside:
        for key, holders in step.companions.items():
            for model, holder in zip(step.models, holders, strict=True):
                if holder is not None and holder not in known:
                    what = f"no model or step is called {shown(holder)}{did_you_mean(holder, known)}"
                    yield Problem(("steps", step.name, "models", model, key), what)
    if beside:
        yield from circles(
            {step.name: [name for name in step.inputs if name in steps] for step in steps.values()}
        )
