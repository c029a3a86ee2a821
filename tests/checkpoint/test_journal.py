from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from surgery.checkpoint import journal as journal_module
from surgery.checkpoint.hashing import PIECE
from surgery.checkpoint.journal import Entry, Journal
from surgery.errors import CheckpointError, ResourceError
from surgery.notes import Noted

A = Entry("a", "d1", "h1", 10, PIECE)
NOTES = (Noted("low", "a", {"energy": 0.5, "rank": 3}), Noted("last", "b", {"x": -1e-9}))
B = Entry('b "ж"\n', "d2", "h2", 0, 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def _journal(path, *entries):
    journal = Journal(path)
    journal.append(entries)
    journal.close()
    return journal


def test_a_journal_is_a_header_and_a_line_for_each_tensor(path):
    _journal(path, A, B)
    assert path.read_text() == (
        '{"surgery_journal": 1}\n["a", "d1", "h1", 10, 16777216]\n["b \\"\\u0436\\"\\n", "d2", "h2", 0, 7]\n'
    )


def test_what_was_appended_is_loaded_by_another_process(path):
    _journal(path, A)
    _journal(path, B)
    assert Journal(path).load() == [A, B]
    assert Journal(path).load()[0].piece == PIECE


def test_a_piece_is_of_the_usual_size_unless_said_otherwise():
    assert Entry("a", "d1", "h1", 10) == A


def test_what_ops_noted_stands_last_and_comes_back(path):
    noted = A._replace(notes=NOTES)
    _journal(path, noted, B)
    assert path.read_text().splitlines()[1] == (
        '["a", "d1", "h1", 10, 16777216, '
        '[["low", "a", {"energy": 0.5, "rank": 3}], ["last", "b", {"x": -1e-09}]]]'
    )
    assert Journal(path).load() == [noted, B]


def test_without_a_file_nothing_is_done_yet(path):
    assert Journal(path).load() == []
    assert not path.exists()


def test_of_two_lines_on_a_tensor_the_later_holds(path):
    _journal(path, A, B, A._replace(xxh3="new"))
    assert Journal(path).load() == [A._replace(xxh3="new"), B]


def test_a_journal_torn_anywhere_is_read_up_to_its_last_whole_line_and_goes_on_there(path):
    _journal(path, A, B)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = [A, B][: max(sum(end <= length for end in ends) - 1, 0)]
        assert Journal(path).load() == kept, length
        more = Entry("c", "d3", "h3", 1)
        _journal(path, more)
        assert Journal(path).load() == [*kept, more], length


def test_a_last_line_of_zeros_is_torn_too(path):
    _journal(path, A)
    with path.open("ab") as file:
        file.write(bytes(40) + b"\n")
    assert Journal(path).load() == [A]
    _journal(path, B)
    assert Journal(path).load() == [A, B]


@pytest.mark.parametrize(
    "line",
    [
        '["a"',
        "{}",
        "[]",
        '["a", "d", "h", 1]',
        '["a", "d", "h", 1, true]',
        '["a", "d", "h", "1", 1]',
        '["a", "d", "h", 1, 1, {}]',
        '["a", "d", "h", 1, 1, [["s", "t"]]]',
        '["a", "d", "h", 1, 1, [], []]',
        "null",
    ],
)
def test_damage_before_the_end_is_an_error_with_its_line(path, line):
    _journal(path, A)
    with path.open("a") as file:
        file.write(line + "\n" + json.dumps(B) + "\n")
    with pytest.raises(CheckpointError) as caught:
        Journal(path).load()
    assert str(caught.value) == f"{path}:3: is damaged; run with --no-resume"


@pytest.mark.parametrize("first", ['{"surgery_journal": 2}', "{}", '["a", "d", "h", 1, 1]'])
def test_a_journal_of_another_version_is_refused(path, first):
    path.write_text(first + "\n" + json.dumps(A) + "\n")
    for use in (lambda journal: journal.load(), lambda journal: journal.append([A])):
        with pytest.raises(CheckpointError) as caught:
            use(Journal(path))
        assert str(caught.value) == (
            f"{path}:1: is not a journal of version 1, got `{first}`;"
            " finish with the version that began, or run with --no-resume"
        )
    assert path.read_text() == first + "\n" + json.dumps(A) + "\n"


def test_many_threads_append_whole_lines(path):
    journal = Journal(path)
    entries = [Entry(f"w{i}", "d" * (i % 50), "h", i) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda entry: journal.append([entry]), entries))
    journal.close()
    assert sorted(Journal(path).load()) == sorted(entries)


def test_appending_returns_only_after_syncing(path, monkeypatch):
    synced = []

    def sync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        os.fsync(descriptor)

    monkeypatch.setattr(journal_module, "sync_data", sync)
    journal = Journal(path)
    journal.append([A])
    assert synced[-1] == path.stat().st_size
    journal.append([B])
    assert synced[-1] == path.stat().st_size
    journal.close()


def test_a_full_disk_is_a_resource_error(path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal = Journal(path)
    journal.append([A])
    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ResourceError) as caught:
        journal.append([B])
    assert str(caught.value) == (
        f"{path}: cannot be written: No space left on device; free some space, then run again:"
        " what is finished is kept"
    )


def test_a_journal_that_cannot_be_read_is_an_error(path):
    path.mkdir()
    with pytest.raises(CheckpointError) as caught:
        Journal(path).load()
    assert str(caught.value) == f"{path}: cannot be read: Is a directory; run with --no-resume"
