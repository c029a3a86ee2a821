"""Readers of other readers: what all of them pass on."""

from __future__ import annotations

import torch

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.view import View
from surgery.ops import Space


class Told(MemoryCheckpoint):
    """Remembers what it is told; busy with `busy`."""

    busy, closed = "", False

    def expect(self, names):
        self.expected = list(names)

    def doing(self):
        return self.busy

    def whole_file_bytes(self):
        return 100

    def close(self):
        self.closed = True


class Sum(View):
    """`w` is read from both readers, all else from the first."""

    def made_of(self, name):
        return [(reader, name) for reader in self._read if name == "w" or reader is self._read[0]]

    def read_into(self, name, start, buffer):
        raise NotImplementedError

    def extent(self, name):
        return None

    def identity(self, name):
        return b""


def view():
    first = Told({"w": torch.ones(2), "n": torch.ones(1)}, config={"model_type": "llama"}, location="./first")
    return Sum(first, Told({"w": torch.ones(2)}, location="./second"))


def test_it_says_of_itself_what_its_first_reader_says():
    shown = view()
    first = shown._read[0]
    first.native, first.space = {"w": "BF16"}, Space.DELTA
    again = Sum(*shown._read)
    for key in ("location", "config", "sidecars", "tensors", "aliases", "native", "space", "description"):
        assert getattr(again, key) == getattr(first, key), key
    assert (again.location, again.native, again.space) == ("./first", {"w": "BF16"}, Space.DELTA)


def test_each_reader_is_told_of_its_own_tensors_in_the_order_of_the_run():
    shown = view()
    shown.expect(["n", "w"])
    assert [reader.expected for reader in shown._read] == [["n", "w"], ["w"]]


def test_a_view_of_a_view_has_every_reader_once_and_counts_what_each_holds_once():
    inner = view()
    outer = Sum(inner)
    assert outer.parts() == (*inner._read, inner, outer)
    assert [part.whole_file_bytes() for part in outer.parts()] == [100, 100, 0, 0]


def test_it_is_busy_with_what_a_reader_is_busy_with():
    shown = view()
    assert shown.doing() == ""
    shown._read[1].busy = "fetching"
    assert Sum(shown).doing() == "fetching"


def test_it_closes_what_it_reads():
    shown = view()
    Sum(shown).close()
    assert [reader.closed for reader in shown._read] == [True, True]
