from __future__ import annotations

import numpy as np

from surgery.checkpoint.memory import MemoryCheckpoint


class Noting(MemoryCheckpoint):
    """Notes what it is told to expect."""

    def expect(self, names) -> None:
        self.expected = list(names)


class View(MemoryCheckpoint):
    """Reads two others."""

    def parts(self):
        return self, *self.others


def test_a_reader_of_others_passes_on_what_will_be_read_to_those_that_have_it():
    tensors = {name: np.zeros(1, "f4") for name in "abc"}
    whole, part = Noting(tensors), Noting({"a": np.zeros(1, "f4")})
    view = View(tensors)
    view.others = (whole, part)
    view.expect(["c", "a"])
    assert whole.expected == ["c", "a"]
    assert not hasattr(part, "expected")


def test_a_local_reader_is_busy_with_nothing_else():
    checkpoint = MemoryCheckpoint({"a": np.zeros(1, "f4")})
    checkpoint.expect(["a"])
    assert checkpoint.doing() == ""
