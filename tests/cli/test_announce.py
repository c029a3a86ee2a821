from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from surgery.cli import announce, bar
from surgery.cli.announce import Ticks, interruption, noted, took
from surgery.cli.kept import Kept
from surgery.cli.records import report_record
from surgery.execute.report import Progress, Report, Written
from surgery.notes import Noted


def test_what_a_run_took_is_one_line():
    report = Report((), 2.0, 3 << 20, 1 << 20, 300 << 20, 1, "cpu")
    assert (
        took(report)
        == "2.0 s, read 3.0 MiB, wrote 1.0 MiB, 2.0 MiB/s, peak memory 300.0 MiB, 1 worker on cpu"
    )


def written(name: str, *noted: Noted) -> Written:
    """Return an output whose tensors are those that were noted, each by itself."""
    notes: dict[str, tuple[Noted, ...]] = {}
    for one in noted:
        notes[one.tensor] = (*notes.get(one.tensor, ()), one)
    return Written(name, Path(name), 9, 9, 1, notes=notes)


def report(*outputs: Written) -> Report:
    return Report(outputs, 1.0, 0, 0, 0, 1, "cpu")


def test_what_ops_noted_is_a_line_for_each_step():
    low = [Noted("low", f"w{i}", {"energy": energy, "rank": 4}) for i, energy in enumerate((0.91234, 0.5))]
    one = written("out", *low, Noted("last", "w1", {"ratio": 2.0}))
    assert noted(report(one)) == ["low, 2 tensors: energy 0.5 to 0.912, rank 4", "last, 1 tensor: ratio 2"]
    assert noted(report(one, written("b"))) == [
        "out: low, 2 tensors: energy 0.5 to 0.912, rank 4",
        "out: last, 1 tensor: ratio 2",
    ]


def test_of_many_steps_the_notes_are_left_to_the_page():
    steps = [Noted(f"s{i}", "w", {"x": 1.0}) for i in range(7)]
    assert len(noted(report(written("out", *steps[:6])))) == 6
    assert noted(report(written("out", *steps))) == []
    assert noted(report(written("out"))) == []


def test_machines_are_told_what_ops_noted_taken_together():
    one = written("out", Noted("low", "v", {"rank": 2}), Noted("low", "w", {"rank": 4}))
    (told,) = report_record(report(one))["outputs"]
    assert told["notes"] == [
        {"step": "low", "number": "rank", "tensors": 2, "least": 2, "most": 4, "mean": 3}
    ]
    assert "notes" not in report_record(report(written("out")))["outputs"][0]


def test_what_is_kept_is_said_for_each_output(tmp_path):
    kept = [Kept(tmp_path / "a.partial", 3, 1200), Kept(tmp_path / "b.partial", 0, 5)]
    assert interruption(kept, resume=True).splitlines() == [
        f"interrupted: 3 of 1,200 tensors are kept in {tmp_path}/a.partial",
        f"interrupted: 0 of 5 tensors are kept in {tmp_path}/b.partial",
        "run the same command again to continue",
    ]


def test_ticks_are_half_a_second_apart(capsys, monkeypatch):
    clock = iter([10.0, 10.1, 10.49, 10.5, 10.9])
    monkeypatch.setattr(announce.time, "monotonic", lambda: next(clock))
    ticks = Ticks()
    for done in range(1, 6):
        ticks(Progress(done * 10, 100, "w", 1.0))
    assert [json.loads(line)["done"] for line in capsys.readouterr().out.splitlines()] == [10, 40]


def test_a_tick_estimates_the_time_left(capsys):
    Ticks()(Progress(25, 100, "w", 2.0))
    assert json.loads(capsys.readouterr().out) == {
        "event": "progress",
        "done": 25,
        "total": 100,
        "seconds": 2.0,
        "eta": 6.0,
        "tensor": "w",
    }


def test_a_tick_before_anything_is_done_knows_no_end(capsys):
    Ticks()(Progress(0, 100, "", 0.1))
    assert json.loads(capsys.readouterr().out)["eta"] is None


def test_the_bar_shows_bytes_and_the_tensor(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, markup=False)
    monkeypatch.setattr(bar, "rich_console", lambda err: terminal)
    with bar.Bar() as shown:
        shown(Progress(512 << 20, 1 << 30, "model.layers[0]\x1b[2J.weight", 1.0))
        shown._progress.refresh()
    assert " 50%" in screen.getvalue()
    assert "0.5/1.0 GiB" in screen.getvalue()
    assert "model.layers[0]?[2J.weight" in screen.getvalue()
