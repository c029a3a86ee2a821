"""`surgery run`: carry out a recipe and write its outputs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from surgery.cli.announce import Announcer, ForMachines, ForPeople, Nobody
from surgery.cli.console import OutputClosed
from surgery.cli.exits import INTERRUPTED, MENDABLE
from surgery.cli.options import (
    device_option,
    json_option,
    memory_option,
    out_option,
    plugin_option,
    recipe_argument,
)
from surgery.errors import PlanError, PluginError, RecipeError, SurgeryError

if TYPE_CHECKING:
    from surgery.api import ResolvedPlan
    from surgery.schedule.options import Device, RunOptions

# torchrun ends all processes when one exits: the first, which tells the user why, may be slower than this one.
_GRACE: Final = 2.0  # seconds


@click.command("run")
@recipe_argument
@out_option
@memory_option
@device_option("Where tensors are computed.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Workers; by default one a core, at most eight.",
)
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Continue what an interrupted run left."
)
@click.option("--force", is_flag=True, help="Replace a finished output.")
@json_option
@plugin_option
def command(
    recipe: Path,
    out: Path | None,
    memory: int | None,
    device: str,
    threads: int | None,
    resume: bool,
    force: bool,
    as_json: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Carry out a recipe and write its outputs.

    The bytes written do not depend on memory, threads or device. An interrupted run is continued by the same command.
    With --json, a line for each event: planned, progress (at most two a second), then finished, failed or interrupted.
    """
    from surgery.api import load
    from surgery.schedule.options import RunOptions

    wanted = cast("Device", device)
    options = RunOptions(memory=memory, threads=threads, device=wanted, resume=resume, force=force)
    _run(lambda: load(recipe, plugins=plugins).resolve(out=out, force=force), options, _announcer(as_json))


def _announcer(as_json: bool) -> Announcer:
    """Return who tells the user: of several processes only the first."""
    if not _is_first():
        return Nobody()
    return ForMachines() if as_json else ForPeople()


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _run(resolve: Callable[[], ResolvedPlan], options: RunOptions, announcer: Announcer) -> None:
    resolved: ResolvedPlan | None = None
    try:
        resolved = resolve()
        schedule = resolved.order(options)
        announcer.planned(schedule)
        with announcer.working() as listener:
            report = resolved.run(options, listener=listener, schedule=schedule)
        announcer.finished(report)
    except SurgeryError as error:
        announcer.failed(error)
        # every process finds these; what goes wrong at work, only the one that it happens to
        if not _is_first() and isinstance(error, RecipeError | PlanError | PluginError):
            time.sleep(_GRACE)
            raise click.exceptions.Exit(MENDABLE) from None
        raise
    except OutputClosed:
        raise
    except KeyboardInterrupt:
        announcer.interrupted(resolved.plan if resolved else None, options)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except Exception as error:
        announcer.failed(error)
        raise
    finally:
        if resolved is not None:
            resolved.plan.close()
