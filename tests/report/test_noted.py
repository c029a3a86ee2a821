"""Notes taken together by step and name."""

from __future__ import annotations

from surgery.notes import Noted
from surgery.report.noted import notes_record, recorded, rows_of

NOTES = {
    "w.a": [Noted("low", "w", {"energy": 0.5, "rank": 3})],
    "w.b": [Noted("low", "w", {"energy": 0.5, "rank": 3})],
    "v": [Noted("low", "v", {"energy": 0.75, "rank": 3}), Noted("last", "v", {"energy": 1.0})],
}


def test_a_row_is_a_number_of_a_step_and_counts_each_tensor_once():
    rows = {(row.step, row.name): row for row in rows_of(NOTES)}
    assert list(rows) == [("low", "energy"), ("low", "rank"), ("last", "energy")]
    energy = rows["low", "energy"]
    assert energy.numbers == {"w": 0.5, "v": 0.75}
    assert energy.outputs == {"w": "w.a", "v": "v"}
    assert (energy.least, energy.most, energy.mean) == ("w", "v", 0.625)


def test_of_equal_numbers_the_first_tensor_is_named():
    (_, rank, _) = rows_of(NOTES)
    assert (rank.least, rank.most) == ("w", "w")


def test_what_is_recorded_is_read_back():
    tensors = [{"name": name, "notes": notes_record(notes)} for name, notes in NOTES.items()]
    assert recorded({"tensors": [*tensors, {"name": "u"}]}) == {**NOTES, "u": []}


def test_without_a_report_there_is_nothing():
    assert recorded({}) == {}
    assert rows_of({}) == []
