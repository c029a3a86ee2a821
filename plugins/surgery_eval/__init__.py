"""Evaluators: what a candidate of a search is worth."""

from __future__ import annotations

from surgery import evaluators_in, hookimpl
from surgery.trials import EvaluatorKind


@hookimpl
def surgery_register_evaluators() -> list[EvaluatorKind]:
    """Return the evaluators of this family."""
    return evaluators_in(__name__)
