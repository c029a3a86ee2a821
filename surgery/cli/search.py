"""`surgery search`: find values for a recipe's holes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from surgery.cli.console import Column, OutputClosed, on_terminal, say, say_json, table, warn
from surgery.cli.exits import INTERRUPTED
from surgery.cli.options import device_option, json_option, memory_option, plugin_option, recipe_argument
from surgery.cli.words import count

if TYPE_CHECKING:
    from surgery.schedule.options import Device
    from surgery.search.result import Result
    from surgery.search.task import Task
    from surgery.search.trial import Trial


@click.command("search")
@recipe_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder for journal, winner and page, instead of the recipe's `search.to`.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="How many candidates, instead of the recipe's."
)
@click.option("--resume", is_flag=True, help="Go on with the journal in the folder.")
@click.option("--trust", is_flag=True, help="Let the evaluator run code that the recipe names.")
@memory_option
@device_option("Where candidates are evaluated.")
@json_option
@plugin_option
def command(
    recipe: Path,
    out: Path | None,
    trials: int | None,
    resume: bool,
    trust: bool,
    memory: int | None,
    device: str,
    as_json: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Find values for a recipe's holes.

    Candidates are made and scored in memory. The folder then holds journal.jsonl (every candidate), winner.yaml (a
    plain recipe for `surgery run`), result.json and report.html. With --json, a line for each candidate, then
    finished, failed or interrupted.
    """
    from surgery.schedule.options import RunOptions
    from surgery.search.run import search
    from surgery.search.task import load_task

    teller = _Machines() if as_json else _People()
    try:
        task = load_task(recipe, plugins, trust=trust)
        _warn(task)
        teller.total = trials or task.settings.trials
        options = RunOptions(memory=memory, device=cast("Device", device))
        result = search(task, options, out=out, trials=trials, resume=resume, listener=teller.tried)
        teller.finished(result)
    except KeyboardInterrupt:
        teller.interrupted()
        raise click.exceptions.Exit(INTERRUPTED) from None
    except Exception as error:
        teller.failed(error)
        raise


def _warn(task: Task) -> None:
    for finding in task.recipe(task.space.centre).warnings:
        warn(str(finding))
    if task.held_out is None:
        warn(
            f"{task.file}: search: no `held_out`; the winner's score is the one that the search picked it by"
        )


class _People:
    """A line that says how far the search is on a terminal, tables at the end."""

    def __init__(self) -> None:
        self.total = 0
        self._tried = 0

    def tried(self, trial: Trial) -> None:
        """Count a candidate, and show it on a terminal."""
        self._tried += 1
        if on_terminal(err=True):
            score = "failed" if trial.score is None else f"{trial.score:.6g}"
            click.echo(f"\r\x1b[K{trial.name} of {self.total}: {score}", nl=False, err=True)

    def finished(self, result: Result) -> None:
        """Print the scores of winner and baselines, and where everything is."""
        self._end_line()
        table([Column("candidate"), Column("score", True), Column("held out", True)], _scores(result))
        beaten = result.beaten_by()
        against = f"no better than {', '.join(beaten)}" if beaten else "better than every baseline"
        failures = sum(trial.failure is not None for trial in result.trials)
        failed = f", {count(failures, 'failure')}" if failures else ""
        say(f"{result.winner.name} won after {count(len(result.trials), 'candidate')}{failed}: {against}")
        say(
            f"{result.folder / 'winner.yaml'} is its recipe, {result.folder / 'report.html'} tells the search"
        )

    def interrupted(self) -> None:
        """Print what is kept."""
        self._end_line()
        kept = f"{count(self._tried, 'candidate')} kept" if self._tried else "nothing is finished yet"
        click.echo(f"interrupted: {kept}; run the same command with --resume to go on", err=True)

    def failed(self, error: Exception) -> None:
        """End the line; the message is printed by whoever catches the error."""
        self._end_line()

    def _end_line(self) -> None:
        if self._tried and on_terminal(err=True):
            click.echo("\r\x1b[K", nl=False, err=True)


class _Machines(_People):
    """One JSON object a line on stdout."""

    def tried(self, trial: Trial) -> None:
        """Print a candidate."""
        _tell("candidate", **trial.record())

    def finished(self, result: Result) -> None:
        """Print the result."""
        _tell("finished", folder=str(result.folder), **result.record())

    def interrupted(self) -> None:
        """Say so."""
        _tell("interrupted")

    def failed(self, error: Exception) -> None:
        """Print the message and its findings."""
        from surgery.cli.records import finding_record

        found = [finding_record(finding) for finding in getattr(error, "findings", ())]
        _tell("failed", error=str(error), findings=found)


def _scores(result: Result) -> list[list[str]]:
    held = {one.name: one.score for one in result.held_out}
    rows = [[f"winner ({result.winner.name})", _number(result.winner.score), _number(held.get("winner"))]]
    rows += [[t.name, _number(t.score), _number(held.get(t.name))] for t in result.baselines]
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _tell(event: str, **facts: Any) -> None:
    """Print an event. When nobody reads any more the work goes on."""
    with contextlib.suppress(OutputClosed):
        say_json({"event": event, **facts}, indent=None)
