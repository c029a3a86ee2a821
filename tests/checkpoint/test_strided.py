from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint import strided
from surgery.checkpoint.strided import View, boxes, gather


class _Storage:
    """Bytes that are read like a file; notes the sizes of the reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[int] = []

    def __call__(self, offset: int, buffer: memoryview) -> None:
        assert 0 <= offset <= offset + len(buffer) <= len(self.data)
        self.reads.append(len(buffer))
        buffer[:] = self.data[offset : offset + len(buffer)]


def _view(array: np.ndarray, base: np.ndarray) -> View:
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return View(offset, array.shape, array.strides, array.itemsize)


def test_a_transposed_matrix_is_read_row_by_row_of_the_transpose():
    base = np.arange(6, dtype="<u2").reshape(2, 3)
    out = bytearray(8)
    gather(_Storage(base.tobytes()), _view(base.T, base), 2, memoryview(out))
    assert np.frombuffer(out, "<u2").tolist() == [
        3,
        1,
        4,
        2,
    ]  # [[0, 3], [1, 4], [2, 5]] from its second element


def test_a_range_is_cut_into_a_last_row_whole_rows_and_a_first_row():
    assert list(boxes((4, 3), 2, 10)) == [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
    assert list(boxes((4, 3), 3, 9)) == [((1, 0), (2, 3))]
    assert list(boxes((4, 3), 4, 5)) == [((1, 1), (1, 1))]
    assert list(boxes((), 0, 1)) == [((), ())]


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_boxes_cover_a_range_in_order_without_overlap(shape, data):
    count = int(np.prod(shape))
    last = data.draw(st.integers(1, count))
    first = data.draw(st.integers(0, last - 1))
    index = np.arange(count).reshape(shape)
    covered = [
        index[tuple(slice(i, i + n) for i, n in zip(begin, sizes, strict=True))].reshape(-1)
        for begin, sizes in boxes(tuple(shape), first, last)
    ]
    assert np.concatenate(covered).tolist() == list(range(first, last))


@st.composite
def views(draw):
    """Return an array and a view of it: permuted, sliced with steps, some dimensions repeated with stride 0."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(["<u1", "<u2", "<u4", "<u8"]))
    base = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    view = base.transpose(draw(st.permutations(range(len(shape)))))
    cuts = [(draw(st.integers(0, size - 1)), draw(st.integers(1, 3))) for size in view.shape]
    view = view[tuple(slice(begin, None, step) for begin, step in cuts)]
    if draw(st.booleans()):
        view = np.broadcast_to(view, (draw(st.integers(1, 3)), *view.shape))
    return base, view


@given(views(), st.data())
def test_any_byte_range_of_any_view_is_what_numpy_says(base_and_view, data):
    base, array = base_and_view
    want = np.ascontiguousarray(array).tobytes()
    end = data.draw(st.integers(0, len(want)))
    start = data.draw(st.integers(0, end))
    out = bytearray(end - start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "PIECE", data.draw(st.sampled_from([8, 24, 1 << 20])))
        patch.setattr(strided, "_GAP", data.draw(st.sampled_from([0, 8, 1 << 16])))
        gather(_Storage(base.tobytes()), _view(array, base), start, memoryview(out))
    assert bytes(out) == want[start:end]


@given(views())
def test_contiguous_and_span_are_what_numpy_says(base_and_view):
    base, array = base_and_view
    view = _view(array, base)
    assert view.contiguous == array.flags.c_contiguous
    low, high = np.lib.array_utils.byte_bounds(array)
    assert view.span == high - low


def test_a_view_without_elements_is_contiguous():
    assert View(0, (3, 0), (7, 7), 4).contiguous


def test_no_read_is_larger_than_a_piece(monkeypatch):
    monkeypatch.setattr(strided, "PIECE", 4096)
    base = np.arange(200 * 300, dtype="<u2").reshape(200, 300)
    storage, out = _Storage(base.tobytes()), bytearray(base.nbytes)
    gather(storage, _view(base.T, base), 0, memoryview(out))
    assert bytes(out) == np.ascontiguousarray(base.T).tobytes()
    assert max(storage.reads) <= 4096
    assert sum(storage.reads) <= base.nbytes  # nothing is read twice


def test_holes_are_read_when_small_and_skipped_when_large(monkeypatch):
    base = np.arange(64 * 64, dtype="<u1").reshape(64, 64)
    column = base[:, 3:4]
    for gap, reads in ((64, [63 * 64 + 1]), (62, [1] * 64)):
        monkeypatch.setattr(strided, "_GAP", gap)
        storage, out = _Storage(base.tobytes()), bytearray(64)
        gather(storage, _view(column, base), 0, memoryview(out))
        assert storage.reads == reads
        assert bytes(out) == column.tobytes()
