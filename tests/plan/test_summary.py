from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.layout import lay_out
from surgery.errors import Finding
from surgery.plan.summary import OutputSummary, StepSummary, dtypes_of, summarize
from surgery.tensors import TensorSpec

ELEMENTS = 8 * 4 + 6 * 4 + 6 * 4 + 4 + 8 * 4  # of the fixture's models: 116


@dataclass(frozen=True)
class Known:
    """What a schedule would say."""

    layouts: tuple
    reads: int = 1_500_000_000
    writes: int = 500_000_000
    peak: int = 7
    budget: int = 9
    workers: int = 2
    calibrations: tuple[object, ...] = ()


def summary_of(plan, warnings=(), shard_size=10**9):
    layouts = tuple(lay_out([t.spec for t in output.tensors], shard_size) for output in plan.outputs)
    return summarize(plan, Known(layouts), warnings)


def test_a_model_is_counted_as_it_is_stored(plan):
    (first, *_) = summary_of(plan("  m: {op: toy.mix, models: [a, b]}")).models
    assert (first.name, first.tensors, first.parameters, first.nbytes) == ("a", 5, ELEMENTS, 4 * ELEMENTS)
    assert first.dtypes == ("F32",)
    assert first.source.startswith("memory:")


def test_a_step_counts_what_it_computes_and_what_it_passes_on(plan):
    made = plan("  m: {op: toy.mix, models: [a, b], where: mlp}")
    assert summary_of(made).steps == (StepSummary("m", "toy.mix", None, ("a", "b"), 2, 3),)


def test_what_an_earlier_step_computed_is_passed_on_by_a_later_one(plan):
    steps = summary_of(
        plan(
            "  first: {op: toy.mix, models: [a, b]}\n"
            "  m: {op: toy.toward, base: c, models: [first], where: layers, amount: 0.5}"
        )
    ).steps
    assert [(s.name, s.base, s.inputs, s.applied, s.copied) for s in steps] == [
        ("first", None, ("a", "b"), 5, 0),
        ("m", "c", ("c", "first"), 2, 3),
    ]


def test_what_is_simplified_away_counts_as_copied(plan):
    (step,) = summary_of(plan("  m: {op: toy.toward, base: a, models: [b], amount: 0.0}")).steps
    assert (step.applied, step.copied) == (0, 5)


def test_a_step_that_no_output_needs_is_left_out(plan):
    made = plan("  m: {op: toy.mix, models: [a, b]}\n  idle: {op: toy.mix, models: [c]}")
    summary = summary_of(made)
    assert [step.name for step in summary.steps] == ["m"]
    assert [model.name for model in summary.models] == ["a", "b"]


def test_an_output_is_counted_in_the_dtype_and_files_that_it_is_stored_in(plan):
    made = plan("  m: {op: toy.mix, models: [a, b]}", output="{model: m, dtype: bfloat16, to: ./x}")
    (output,) = summary_of(made, shard_size=80).outputs
    folder = output.folder
    assert isinstance(folder, Path)
    assert output == OutputSummary("output", "m", folder, 5, ELEMENTS, 2 * ELEMENTS, ("BF16",), 4)


def test_the_plans_warnings_come_first(plan):
    made = plan("  m: {op: toy.mix, models: [a]}\n  idle: {op: toy.mix, models: [b]}")
    extra = Finding("more")
    assert summary_of(made, [extra]).warnings == (*made.warnings, extra)
    assert made.warnings


def test_the_time_is_that_of_moving_the_bytes(plan):
    assert summary_of(plan("  m: {op: toy.mix, models: [a]}")).seconds == 2.0


def test_the_record_is_plain_data(plan):
    summary = summary_of(plan("  m: {op: toy.mix, models: [a]}", output="{model: m, to: ./x}"))
    record = json.loads(json.dumps(summary.record()))
    assert record["estimated_seconds"] == 2.0
    assert record["outputs"][0]["folder"] == str(summary.outputs[0].folder)
    assert record["steps"] == [
        {"name": "m", "op": "toy.mix", "base": None, "inputs": ["a"], "applied": 5, "copied": 0}
    ]


def test_an_output_without_a_folder_says_so(plan):
    summary = summary_of(plan("  m: {op: toy.mix, models: [a]}"))
    assert summary.outputs[0].folder is None
    assert summary.record()["outputs"][0]["folder"] is None


def test_dtypes_are_listed_by_their_elements():
    specs = [TensorSpec("a", (2,), "F32"), TensorSpec("b", (3,), "BF16"), TensorSpec("c", (2,), "F32")]
    assert dtypes_of(specs) == ("F32", "BF16")
    assert dtypes_of([]) == ()
