"""The page of a search: who won against whom, how the score fell, what the values were."""

from __future__ import annotations

from surgery.search.result import Result, progress
from surgery.search.trial import Trial


def history_page(result: Result, winner: str) -> str:
    """Return the HTML page of a finished search; `winner` is the winner's recipe."""
    from surgery.report.axes import safe
    from surgery.report.page import Section, page

    sections = [Section("Result", _result(result))]
    if result.held_out:
        sections.append(Section("Held-out scores", _held_out(result)))
    sections += [
        Section("Scores", _scores(result)),
        Section("The winner's values", _values(result)),
        Section("The winner's recipe", f"<pre>{safe(winner)}</pre>"),
        Section("All candidates", _all(result)),
    ]
    return page(f"Search: {result.space}", sections)


def _result(result: Result) -> str:
    from surgery.report.axes import safe

    beaten = result.beaten_by()
    data = "held-out data" if result.held_out else "the data that the search looked at"
    against = f"no better than {', '.join(beaten)}" if beaten else "better than every baseline"
    tried = len(result.trials) - len(result.baselines)
    text = (
        f"{result.winner.name} won: {result.final:.6g} on {data}, {against}. {tried} trials of {result.sampler}, "
        f"scored by {result.evaluator} ({result.goal}), took {result.seconds:.0f} s."
    )
    return f"<p>{safe(text)}</p>"


def _held_out(result: Result) -> str:
    from surgery.report.charts import bar_chart
    from surgery.report.page import table

    scores = {one.name: one.score for one in result.held_out if one.score is not None}
    names = sorted({name for one in result.held_out for name in one.parts})
    rows = [
        [one.name, _number(one.score), *(_number(one.parts.get(name)) for name in names), one.failure or ""]
        for one in result.held_out
    ]
    return bar_chart(scores, y_label="score") + table(["candidate", "score", *names, "failure"], rows)


def _scores(result: Result) -> str:
    from surgery.report.charts import line_chart

    trials = [trial for trial in result.trials if trial.kind == "trial"]
    each = [(float(i), t.score) for i, t in enumerate(trials, start=1) if t.score is not None]
    series = {"trial": each, "best so far": progress(result.trials, result.goal)}
    ends = (1.0, float(max(len(trials), 2)))
    for trial in result.baselines:
        if trial.score is not None:
            series[trial.name] = [(end, trial.score) for end in ends]
    return line_chart(series, x_label="trial", y_label="score")


def _values(result: Result) -> str:
    from surgery.report.page import table

    genes = result.genes
    return table(
        ["hole", "value"], [[n, str(v)] for n, v in zip(genes, result.winner.genome or (), strict=True)]
    )


def _all(result: Result) -> str:
    from surgery.report.page import table

    return table(
        ["candidate", "score", "seconds", "tensors", "note"], [_row(trial) for trial in result.trials]
    )


def _row(trial: Trial) -> list[str]:
    note = trial.failure or (f"makes the same as candidate {trial.same}" if trial.same is not None else "")
    seconds = f"{sum(trial.cost.values()):.3g}" if trial.cost else "-"
    return [trial.name, _number(trial.score), seconds, str(trial.loaded), note]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
