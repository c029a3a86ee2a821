"""What is summed when torch multiplies by a watched weight."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from surgery.calibrate.statistics import Adding, Seen, Watch, watched
from surgery.ops import Need

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])


def sums(watch: Watch, name: str = "w") -> tuple[list, list]:
    found = watch.sums[name]
    assert found[Need.SQUARES].dtype == found[Need.TOKENS].dtype == torch.float64
    return found[Need.SQUARES].tolist(), found[Need.TOKENS].tolist()


def test_squares_of_each_input_are_summed_over_tokens():
    layer = torch.nn.Linear(2, 5)
    with Watch(dict([watched("w", layer.weight)])) as watch:
        layer(X)
    assert sums(watch) == ([[10.0, 21.0]], [[3.0]])


def test_batches_are_tokens_and_calls_add_up():
    weight = torch.ones(5, 2)
    with Watch(dict([watched("w", weight)])) as watch:
        linear(X[None].expand(2, 3, 2), weight)
        linear(input=X[:1], weight=weight)
    assert sums(watch) == ([[21.0, 46.0]], [[7.0]])


def test_experts_in_one_tensor_are_told_apart():
    experts = torch.ones(3, 5, 2)
    with Watch(dict([watched("w", experts)])) as watch:
        linear(X[:1], experts[torch.tensor(2)])
        linear(X[1:], experts[0])
    assert sums(watch) == ([[9.0, 17.0], [0.0, 0.0], [1.0, 4.0]], [[2.0], [0.0], [1.0]])


def test_other_weights_and_transposed_ones_are_not_looked_at():
    weight, square = torch.ones(5, 2), torch.ones(2, 2)
    with Watch(dict([watched("w", square)])) as watch:
        linear(X, weight)
        linear(X, square.T)
        X @ square
    assert sums(watch) == ([[0.0, 0.0]], [[0.0]])


def test_sums_are_exact_where_float32_is_not():
    x = torch.full((1000, 1), 4097.0)
    weight = torch.ones(1, 1)
    with Watch(dict([watched("w", weight)])) as watch:
        linear(x, weight)
    assert sums(watch) == ([[1000 * 4097.0**2]], [[1000.0]])


def test_the_model_is_stopped_when_all_is_seen():
    a, b = torch.ones(5, 2), torch.ones(5, 2)
    with Watch(dict([watched("a", a), watched("b", b)]), enough=True) as watch:
        linear(X, a)
        with pytest.raises(Seen):
            linear(X, b)
    assert sums(watch, "a") == sums(watch, "b") == ([[10.0, 21.0]], [[3.0]])


def test_samples_are_added_in_place():
    weight = torch.ones(5, 2)
    parts = []
    for _ in range(2):
        with Watch(dict([watched("w", weight)])) as watch:
            linear(X, weight)
        parts.append(watch.sums)
    total = Adding().fold(*parts)
    assert total is parts[0]
    assert total["w"][Need.SQUARES].tolist() == [[20.0, 42.0]]


def test_a_gram_matrix_is_summed_where_it_is_needed():
    weight = torch.ones(5, 2)
    with Watch(dict([watched("w", weight)]), [Need.GRAM]) as watch:
        linear(X, weight)
        linear(X[:1], weight)
    found = watch.sums["w"][Need.GRAM]
    assert found.dtype == torch.float64
    assert found.tolist() == [[[11.0, 16.0], [16.0, 25.0]]]
    with Watch(dict([watched("w", weight)]), [Need.SQUARES]) as watch:
        linear(X, weight)
    assert Need.GRAM not in watch.sums["w"]


def test_weights_that_read_the_same_tensor_have_the_same_gram_matrix_until_it_is_written_to():
    a, b, x = torch.ones(5, 2), torch.ones(3, 2), X.clone()
    with Watch(dict([watched("a", a), watched("b", b)]), [Need.GRAM]) as watch:
        linear(x, a)
        linear(x, b)
        x.mul_(2)
        linear(x, b)
    first = torch.tensor([[10.0, 14.0], [14.0, 21.0]], dtype=torch.float64)
    assert torch.equal(watch.sums["a"][Need.GRAM][0], first)
    assert torch.equal(watch.sums["b"][Need.GRAM][0], 5 * first)


def test_gram_matrices_of_many_tokens_are_those_of_float64():
    x, weight = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)), torch.ones(2, 6)
    with Watch(dict([watched("w", weight)]), [Need.GRAM]) as watch:
        linear(x, weight)
    torch.testing.assert_close(
        watch.sums["w"][Need.GRAM][0], x.double().T @ x.double(), rtol=1e-13, atol=1e-10
    )
