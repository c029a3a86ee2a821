"""Rows and columns of a flat stream: which line an element is in, and products along each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from surgery.math.lines import line_gram, lines_of


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "axis", "wanted"),
    [
        ((2, 3), "rows", [0, 0, 0, 1, 1, 1]),
        ((2, 3), "columns", [0, 1, 2, 0, 1, 2]),
        ((2, 2, 2), "rows", [0, 0, 1, 1, 2, 2, 3, 3]),
        ((2, 2, 2), "columns", [0, 1, 0, 1, 2, 3, 2, 3]),
        ((2, 1, 1, 2), "rows", [0, 0, 1, 1]),
        ((2, 1, 1, 2), "columns", [0, 1, 0, 1]),
        ((3,), "rows", [0, 0, 0]),
        ((3,), "columns", [0, 0, 0]),
        ((), "columns", [0]),
        ((0, 3), "columns", []),
        ((3, 0), "rows", []),
    ],
)
def test_the_line_of_each_element(shape, axis, wanted):
    lines = lines_of(shape, axis)
    assert lines.count > max(wanted, default=-1)
    numbers = np.arange(float(lines.count))
    for start in range(len(wanted)):
        for stop in range(start, len(wanted) + 1):
            spread = lines.spread(numbers, start, torch.zeros(stop - start))
            assert spread.tolist() == wanted[start:stop]
            assert spread.dtype is torch.float32


def test_values_may_be_those_of_the_touched_lines_alone():
    lines = lines_of((4, 2), "rows")  # elements 3 to 6 are in rows 1, 2, 2, 3
    spread = lines.spread(np.array([7.0, 8.0, 9.0]), 3, torch.zeros(4), known=1)
    assert spread.tolist() == [7, 8, 8, 9]


@pytest.mark.parametrize("shape", [(), (9,), (4, 5), (2, 3, 4), (2, 2, 2, 2), (5, 1)])
def test_values_of_rows_are_taken_from_their_elements_in_place_too(shape):
    numel, lines = math.prod(shape), lines_of(shape, "rows")
    x = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    values = np.arange(1.0, lines.count + 1) / 3
    for start in range(numel):
        for stop in range(start, numel + 1):
            part, first = x[start:stop], start // lines.length
            wanted = part - lines.spread(values, start, part)
            assert torch.equal(lines.less(part, values, start, torch.empty(stop - start)), wanted)
            itself = part.clone()
            assert lines.less(itself, values[first:], start, itself, known=first) is itself
            assert torch.equal(itself, wanted)


def test_the_largest_and_the_sum_of_each_row_that_a_range_touches():
    lines = lines_of((3, 3), "rows")
    values = torch.tensor([1.0, 4.0, 2.0, -3.0, 5.0])  # elements 1 to 5: two of row 0, three of row 1
    assert lines.largest(values, 1).tolist() == [4, 5]
    assert lines.sums(values, 1).tolist() == [5, 4]
    assert lines.sums(torch.zeros(0), 0).tolist() == []


@pytest.mark.parametrize("shape", [(), (1,), (9,), (4, 5), (2, 3, 4), (2, 2, 2, 2)])
def test_rows_are_reduced_wherever_a_range_begins_and_ends(shape):
    numel, lines = math.prod(shape), lines_of(shape, "rows")
    values = torch.randn(numel, generator=torch.Generator().manual_seed(0))
    row = np.arange(numel) // lines.length
    for start in range(numel):
        for stop in range(start + 1, numel + 1):
            touched = sorted(set(row[start:stop]))
            parts = [values[start:stop][row[start:stop] == line] for line in touched]
            found = lines.largest(values[start:stop], start), lines.sums(values[start:stop], start)
            assert found[0].tolist() == [float(part.max()) for part in parts]
            assert found[1].tolist() == pytest.approx(
                [float(part.double().sum()) for part in parts], abs=1e-5
            )


def line_of(shape: tuple[int, ...], axis: str) -> np.ndarray:
    """Return the line of each element of a tensor of at least two dimensions."""
    stacks, rows, length = (1, shape[0], math.prod(shape[1:])) if len(shape) != 3 else shape
    stack, row, column = np.meshgrid(*map(np.arange, (stacks, rows, length)), indexing="ij")
    return (stack * rows + row if axis == "rows" else stack * length + column).reshape(-1)


def test_products_along_rows_and_columns():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows, columns = lines_of((2, 2), "rows"), lines_of((2, 2), "columns")
    assert line_gram([a, b], rows, 0).total(rows).tolist() == [[5, 1, 1], [25, 4, 1]]
    assert line_gram([a, b], columns, 0).total(columns).tolist() == [[10, 1, 1], [20, 4, 1]]
    assert line_gram([a], rows, 0, origin=b).total(rows).tolist() == [[4], [18]]


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (7, 11), (3, 5, 7), (2, 3, 2, 4), (40, 1000)])
@pytest.mark.parametrize("block", [1, 6, 13, 100_000])
def test_however_it_is_cut_the_products_are_those_of_the_whole(axis, shape, block):
    a, b = normal(*shape), normal(*shape, seed=1)
    block = max(block, a.numel() // 50)
    lines = lines_of(shape, axis)
    flat = [a.reshape(-1), b.reshape(-1)]
    total = None
    for start in range(0, a.numel(), block):
        part = line_gram([x[start : start + block] for x in flat], lines, start)
        total = part if total is None else total.__iadd__(part)
    wanted = np.zeros((lines.count, 3))
    x, y = (v.double().numpy() for v in flat)
    for pair, product in enumerate([x * x, x * y, y * y]):
        np.add.at(wanted[:, pair], line_of(shape, axis), product)
    np.testing.assert_allclose(total.total(lines), wanted, rtol=1e-12, atol=1e-12)


def test_columns_of_a_tall_matrix_take_no_more_room_than_one_range():
    shape = (1000, 4)
    lines = lines_of(shape, "columns")
    x = normal(*shape).reshape(-1)
    total = line_gram([x[:7]], lines, 0)
    for start in range(7, 4000, 7):
        total += line_gram([x[start : start + 7]], lines, start)
    assert len(total.parts) == 1


def test_adding_ranges_rounds_once():
    lines = lines_of((3,), "rows")
    big, small = torch.tensor([2.0**30]), torch.tensor([2.0**-5])
    total = line_gram([small], lines, 0)
    for x in (big, small):
        total += line_gram([x], lines, 1)
    assert total.total(lines).item() == 2.0**60 + 2.0**-9  # 2^60 + 2^-10 + 2^-10, rounded
    assert total.parts[0][2].item() == 2.0**-9  # what float64 has no room for beside 2^60


def test_columns_are_taken_in_stretches_of_whole_rows():
    lines = lines_of((2, 2, 3), "columns")
    strips = [(strip.start, strip.stop, first) for strip, first in lines.strips(1, 10)]
    # the rest of row 0; row 1; row 0 of the other matrix; two elements of its row 1
    assert strips == [(0, 2, 1), (2, 5, 0), (5, 8, 3), (8, 10, 3)]


def test_where_rows_begin_in_a_range():
    lines = lines_of((4, 3), "rows")
    assert lines.covered(2, 6) == (0, 3)
    assert lines.offsets(2, 6).tolist() == [0, 1, 4]
    assert lines.offsets(3, 3).tolist() == [0]
    assert lines.offsets(0, 0).tolist() == []
