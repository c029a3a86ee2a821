"""Every hook, in the order in which they fire. Hooks register or observe; tensors never pass through one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from surgery.architecture import Architecture
    from surgery.checkpoint.base import AdapterFormat, Checkpoint, Format, Scheme
    from surgery.checkpoint.base_publisher import Destination
    from surgery.execute.report import JobDone, Report
    from surgery.ops import Op
    from surgery.plan.model import Plan
    from surgery.recipe.document import Document
    from surgery.recipe.foreign import Translated
    from surgery.trials import EvaluatorKind, SamplerKind

GROUP = "surgery"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def surgery_add_commands(group: click.Group) -> None:
    """Add commands to `surgery`. Called once, when the command line starts; import what is heavy inside them."""


@hookspec
def surgery_register_ops() -> list[Op]:  # type: ignore[empty-body]
    """Return the ops of a family; their names begin with the family's. Called when a recipe names the family."""


@hookspec
def surgery_register_samplers() -> list[SamplerKind]:  # type: ignore[empty-body]
    """Return what proposes candidates to `surgery search`. Called when a recipe names the family."""


@hookspec
def surgery_register_evaluators() -> list[EvaluatorKind]:  # type: ignore[empty-body]
    """Return what scores the candidates of `surgery search`. Called when a recipe names the family."""


@hookspec
def surgery_register_formats() -> list[Format]:  # type: ignore[empty-body]
    """Return readers of further checkpoint formats. Called when a plan opens its first model."""


@hookspec
def surgery_register_sources() -> list[Scheme]:  # type: ignore[empty-body]
    """Return URI schemes (`gguf:`, `memory:`) that models are read from. Called when a plan opens its first model."""


@hookspec
def surgery_register_destinations() -> list[Destination]:  # type: ignore[empty-body]
    """Return schemes of `to:` (`hub:`) that outputs are published to. Called when a recipe or `push` names one."""


@hookspec(firstresult=True)
def surgery_decode_checkpoint(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return a view of a checkpoint in which coded tensors are what they stand for; None to leave it as it is.

    Called for every model that a plan opens, unless it says `decode: false`. What the view does not show may still be
    read by it; closing it closes the checkpoint. Raises CheckpointError for codes that are yours but cannot be decoded.
    """


@hookspec
def surgery_register_adapters() -> list[AdapterFormat]:  # type: ignore[empty-body]
    """Return kinds of adapters, which are folded into a base while it is read. Called when a recipe names one."""


@hookspec
def surgery_register_architectures() -> list[Architecture]:  # type: ignore[empty-body]
    """Return what model types call their tensors. Called when a plan opens its first model."""


@hookspec(firstresult=True)
def surgery_read_recipe(
    document: dict[str, Any], documents: tuple[Document, ...], folder: Path
) -> dict[str, Any] | Translated | None:
    """Turn a foreign recipe (another tool's YAML) into ours; None if it is not yours. Called for files without a
    `surgery:` key.

    `document` is the first document's data, `documents` are all of the file, which know where everything stands;
    paths are relative to `folder`. Return plain data, or a Translated to give places, warnings and a report. Raise
    RecipeError with `documents[i].findings(...)` for what is yours but wrong.
    """


@hookspec
def surgery_rewrite_plan(plan: Plan) -> Plan | None:
    """Return a changed plan, or None to leave it. Called once a plan is resolved; what comes back is checked."""


@hookspec
def surgery_job_done(job: JobDone) -> None:
    """A tensor is on disk. Called after its bytes are synced and journaled."""


@hookspec
def surgery_run_finished(report: Report) -> None:
    """A run has published its outputs. Called once, last."""
