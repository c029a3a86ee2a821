"""The page of a search: who won against whom, how the score fell, what the values were."""

from __future__ import annotations

from surgery.report.axes import safe
from surgery.report.charts import bar_chart, line_chart
from surgery.report.page import Section, listing, page, table
from surgery.search.history import History, best, progress
from surgery.search.result import Result
from surgery.search.trial import Trial


def history_page(result: Result, winner: str) -> str:
    """Return the HTML page of a finished search; `winner` is the winner's recipe."""
    sections = [Section("Result", f"<p>{safe(_told(result))}</p>")]
    if result.held_out:
        sections.append(Section("Held-out scores", _held_out(result)))
    sections += [
        Section("Scores", _scores(result.history)),
        Section("The winner's values", _values(result)),
        Section("The winner's recipe", listing(winner)),
        Section("All candidates", _all(result.history)),
    ]
    return page(_title(result.history), sections)


def unfinished_page(history: History) -> str:
    """Return the HTML page of a search that is going on, or was interrupted."""
    tried = len(history.trials) - len(history.baselines)
    leader = best(history.trials, history.about.goal)
    ahead = f"{leader.name} is ahead with {leader.score:.6g}" if leader else "none has a score yet"
    text = f"Not finished: {len(history.trials)} candidates, {tried} of them trials, so far; {ahead}. {_how(history)}."
    sections = [Section("So far", f"<p>{safe(text)}</p>")]
    if tried:
        sections.append(Section("Scores", _scores(history)))
    return page(_title(history), [*sections, Section("All candidates", _all(history))])


def winner_section(result: Result) -> Section:
    """Return the part of the page of an output that is a search's winner: how it was found."""
    held_out = f"<h3>Held-out scores</h3>{_held_out(result)}" if result.held_out else ""
    body = f"<p>{safe(_told(result))}</p><h3>Scores</h3>{_scores(result.history)}{held_out}"
    return Section("Search", f"{body}<h3>Values</h3>{_values(result)}")


def _title(history: History) -> str:
    return f"Search: {history.about.space}"


def _how(history: History) -> str:
    about = history.about
    return f"Proposed by {about.sampler}, scored by {about.evaluator} ({about.goal})"


def _told(result: Result) -> str:
    """Return in words who won, against whom, and what it took."""
    beaten = result.beaten_by()
    data = "held-out data" if result.held_out else "the data that the search looked at"
    against = f"no better than {', '.join(beaten)}" if beaten else "better than every baseline"
    about, tried = result.about, len(result.trials) - len(result.baselines)
    return (
        f"{result.winner.name} won: {result.final:.6g} on {data}, {against}. {tried} trials of {about.sampler}, "
        f"scored by {about.evaluator} ({about.goal}), took {result.seconds:.0f} s."
    )


def _held_out(result: Result) -> str:
    scores = {one.name: one.score for one in result.held_out if one.score is not None}
    names = sorted({name for one in result.held_out for name in one.parts})
    rows = [
        [one.name, _number(one.score), *(_number(one.parts.get(name)) for name in names), one.failure or ""]
        for one in result.held_out
    ]
    return bar_chart(scores, y_label="score") + table(["candidate", "score", *names, "failure"], rows)


def _scores(history: History) -> str:
    """Return each trial's score, the best so far, and the baselines as level lines."""
    trials = [trial for trial in history.trials if trial.kind == "trial"]
    each = [(float(i), t.score) for i, t in enumerate(trials, start=1) if t.score is not None]
    series = {"trial": each, "best so far": progress(history.trials, history.about.goal)}
    ends = (1.0, float(max(len(trials), 2)))
    for trial in history.baselines:
        if trial.score is not None:
            series[trial.name] = [(end, trial.score) for end in ends]
    return line_chart(series, x_label="trial", y_label="score")


def _values(result: Result) -> str:
    genome = result.winner.genome or ()
    rows = [[name, str(value)] for name, value in zip(result.about.genes, genome, strict=True)]
    return table(["hole", "value"], rows)


def _all(history: History) -> str:
    header = ["candidate", "score", "seconds", "tensors", "note"]
    return table(header, [_row(trial) for trial in history.trials])


def _row(trial: Trial) -> list[str]:
    note = trial.failure or (f"makes the same as candidate {trial.same}" if trial.same is not None else "")
    seconds = f"{sum(trial.cost.values()):.3g}" if trial.cost else "-"
    return [trial.name, _number(trial.score), seconds, str(trial.loaded), note]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
