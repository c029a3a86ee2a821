from __future__ import annotations

import io
import json

from rich.console import Console

from surgery.cli import announce, bar
from surgery.cli.announce import Ticks, interruption, took
from surgery.cli.kept import Kept
from surgery.execute.report import Progress, Report


def test_what_a_run_took_is_one_line():
    report = Report((), 2.0, 3 << 20, 1 << 20, 300 << 20, 1, "cpu")
    assert (
        took(report)
        == "2.0 s, read 3.0 MiB, wrote 1.0 MiB, 2.0 MiB/s, peak memory 300.0 MiB, 1 worker on cpu"
    )


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
