from __future__ import annotations

from surgery.execute import samples as module
from surgery.execute.report import peak_rss
from surgery.execute.samples import EVERY, MOST, Samples, resident


def test_samples_are_some_time_apart(monkeypatch):
    now = iter([0.0, 0.0, EVERY / 2, EVERY, EVERY, EVERY * 1.5])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    samples = Samples(started=0.0)
    for read in range(4):
        samples.offer(read, 10 * read)
    assert [(s.seconds, s.read, s.written) for s in samples.taken] == [(0.0, 0, 0), (EVERY, 2, 20)]


def test_long_runs_keep_few_of_them_and_take_them_rarely():
    samples = Samples()
    for read in range(10 * MOST):
        samples.take(read, 0)
    assert MOST / 2 <= len(samples.taken) <= MOST
    assert samples.taken[0].read == 0
    assert samples.every == EVERY * 2 ** round(samples.every / EVERY).bit_length() / 2
    assert [s.read for s in samples.taken] == sorted(s.read for s in samples.taken)


def test_resident_memory_is_that_of_this_process(monkeypatch, tmp_path):
    assert 10 * 2**20 < resident() <= peak_rss() * 1.1
    monkeypatch.setattr(module, "_STATM", tmp_path / "gone")
    assert resident() == peak_rss()
