"""Ranges of a matrix become tiles: each element once, in order, whole rows or a part of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery_hf.quantized import tiles as module
from surgery_hf.quantized.tiles import Tile, tiles


def test_a_range_is_the_end_of_a_row_whole_rows_and_the_beginning_of_one():
    assert list(tiles(3, 17, 5)) == [Tile(0, 1, 3, 5), Tile(1, 3, 0, 5), Tile(3, 4, 0, 2)]


def test_an_empty_range_has_no_tile():
    assert list(tiles(4, 4, 5)) == []


def test_a_tile_is_no_larger_than_the_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST", 10)
    assert list(tiles(0, 15, 3)) == [Tile(0, 3, 0, 3), Tile(3, 5, 0, 3)]
    assert list(tiles(0, 24, 12)) == [
        Tile(0, 1, 0, 10),
        Tile(0, 1, 10, 12),
        Tile(1, 2, 0, 10),
        Tile(1, 2, 10, 12),
    ]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 40), st.integers(1, 60))
def test_every_element_is_in_one_tile_in_order(start: int, count: int, columns: int, most: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", most)
        found = list(tiles(start, start + count, columns))
    elements = [
        row * columns + column
        for tile in found
        for row in range(tile.top, tile.bottom)
        for column in range(tile.left, tile.right)
    ]
    assert elements == list(range(start, start + count))
    assert all(rows == 1 or across == columns for rows, across in (tile.shape for tile in found))
    assert all(rows * across <= most for rows, across in (tile.shape for tile in found))
