from __future__ import annotations

import numpy as np

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.search.kept import KeptCheckpoint, Room


class Counting(MemoryCheckpoint):
    """Counts reads."""

    reads = 0

    def read_into(self, name, start, buffer):
        type(self).reads += 1
        super().read_into(name, start, buffer)


def kept(room: int, **tensors) -> KeptCheckpoint:
    Counting.reads = 0
    return KeptCheckpoint(
        Counting({name: np.array(v, dtype=np.float32) for name, v in tensors.items()}), Room(room)
    )


def read(checkpoint, name: str, start: int, size: int) -> bytes:
    buffer = bytearray(size)
    checkpoint.read_into(name, start, memoryview(buffer))
    return bytes(buffer)


def test_a_tensor_is_read_once_and_then_from_memory():
    checkpoint = kept(100, w=[1, 2, 3])
    whole = np.array([1, 2, 3], dtype=np.float32).tobytes()
    assert [read(checkpoint, "w", 0, 12), read(checkpoint, "w", 4, 8)] == [whole, whole[4:]]
    assert Counting.reads == 1


def test_without_room_every_read_goes_to_the_source():
    checkpoint = kept(20, v=[1, 2, 3], w=[4, 5, 6])
    for _ in range(2):
        assert read(checkpoint, "v", 0, 12) == np.array([1, 2, 3], dtype=np.float32).tobytes()
        assert read(checkpoint, "w", 0, 12) == np.array([4, 5, 6], dtype=np.float32).tobytes()
    assert Counting.reads == 1 + 2


def test_an_empty_tensor_is_no_trouble():
    assert read(kept(10, e=[]), "e", 0, 0) == b""


def test_it_says_what_its_source_says():
    checkpoint = kept(100, w=[1])
    assert checkpoint.identity("w") == checkpoint._source.identity("w")
    assert checkpoint.extent("w") is None
    assert checkpoint.parts() == (checkpoint._source, checkpoint)
    assert (checkpoint.doing(), checkpoint.whole_file_bytes()) == ("", 0)
    assert checkpoint.tensors is checkpoint._source.tensors
