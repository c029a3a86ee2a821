"""What every writer promises, held against the writer of files and the writer of memory."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint.layout import Place, lay_out
from surgery.checkpoint.memory import MemoryWriter
from surgery.checkpoint.writer import SafetensorsWriter
from surgery.tensors import TensorSpec

SPECS = [TensorSpec("a", (1000,), "BF16"), TensorSpec("b", (700,), "U8"), TensorSpec("e", (0,), "F32")]
LAYOUT = lay_out(SPECS, 2000)
FIRST, SECOND = (shard.file for shard in LAYOUT.shards)


@pytest.fixture(params=["files", "memory"])
def writer(request, tmp_path):
    made = SafetensorsWriter(tmp_path, LAYOUT) if request.param == "files" else MemoryWriter(LAYOUT)
    yield made
    made.close()


def _read(writer, name: str) -> bytes:
    data = bytearray(LAYOUT.places[name].nbytes)
    writer.read_back(name, 0, memoryview(data))
    return bytes(data)


def test_new_files_are_none_that_were_there_and_full_of_zeros(writer):
    assert writer.create() == frozenset()
    assert _read(writer, "a") == bytes(2000)


def test_creating_again_keeps_what_was_written(writer):
    writer.create()
    writer.write_at("b", 3, memoryview(b"xyz"))
    assert writer.create() == {FIRST, SECOND}
    assert _read(writer, "b")[:7] == b"\0\0\0xyz\0"


def test_only_the_files_asked_for_are_made(writer):
    writer.create([SECOND])
    writer.write_at("b", 0, memoryview(b"x"))
    assert writer.create() == {SECOND}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 2000), max_size=6), order=st.randoms())
def test_stretches_may_be_written_in_any_order(writer, cuts, order):
    want = os.urandom(2000)
    writer.create()
    edges = sorted({0, 2000, *cuts})
    stretches = list(itertools.pairwise(edges))
    order.shuffle(stretches)
    for begin, end in stretches:
        writer.write_at("a", begin, memoryview(want)[begin:end])
    assert _read(writer, "a") == want


def test_many_threads_write_and_read_back(writer):
    want = {"a": os.urandom(2000), "b": os.urandom(700)}
    writer.create()

    def job(at):
        name = "a" if at < 2000 else "b"
        start = at % 2000
        writer.write_at(name, start, memoryview(want[name])[start : start + 10])
        back = bytearray(10)
        writer.read_back(name, start, memoryview(back))
        writer.sync([name])
        return bytes(back) == want[name][start : start + 10]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, range(0, 2700, 10)))
    assert {name: _read(writer, name) for name in want} == want


def test_buffers_of_another_type_and_without_bytes_are_taken(writer):
    writer.create()
    writer.write_at("a", 0, memoryview(b"abcdefgh").cast("I", (2, 1)))
    writer.write_at("e", 0, memoryview(b""))
    out = memoryview(bytearray(4)).cast("I")
    writer.read_back("a", 4, out)
    assert out.tobytes() == b"efgh"
    assert _read(writer, "e") == b""


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (699, 2), (701, 0)])
def test_a_stretch_outside_the_tensor_is_a_bug_of_the_caller(writer, start, count):
    writer.create()
    with pytest.raises(ValueError, match=rf"^b: bytes {start} to {start + count} of 700$"):
        writer.write_at("b", start, memoryview(bytes(count)))
    with pytest.raises(ValueError, match=rf"^b: bytes {start} to {start + count} of 700$"):
        writer.read_back("b", start, memoryview(bytearray(count)))


def test_a_place_is_that_of_the_layout(writer):
    assert writer.place("b", 0, 700) == Place(SECOND, len(LAYOUT.shards[1].header), 700)
    assert [shard.file for shard in writer.chosen([SECOND])] == [SECOND]
    assert writer.chosen(None) == list(LAYOUT.shards)


def test_finishing_needs_no_more_than_creating(writer):
    writer.create()
    writer.sync()
    writer.finish()
    assert writer.create() == {FIRST, SECOND}
    assert _read(writer, "b") == bytes(700)
