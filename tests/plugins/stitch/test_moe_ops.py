"""What mixtures have that no dense model has, on numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from surgery.testing import Identity, OpCase, run_op
from surgery_stitch._moe_ops import draws, expert, no_bias, router_of_prompts, router_of_states

W = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
TOKENS = torch.tensor([[6.0, 8.0], [0.0, 5.0], [0.0, 1.0], [0.0, -3.0], [7.0, 0.0]])


def test_a_matrix_is_scaled():
    OpCase(
        expert,
        {"scale": 0.1},
        models=[W],
        expected=W * 0.1,
        identity=[Identity({"noise": 0.0, "scale": 1.0})],
    ).check()


def test_noise_is_added_before_the_scale():
    OpCase(expert, {"noise": 0.5, "scale": 2.0}, models=[W]).check()
    made = run_op(expert, {"noise": 0.5, "scale": 2.0}, models=[W])
    noise = run_op(expert, {"noise": 0.5}, models=[torch.zeros(2, 2)])
    assert torch.allclose(made, 2 * (W + noise), rtol=0, atol=1e-6)


def test_noise_is_normal():
    made = run_op(expert, {"noise": 0.5}, models=[torch.ones(100, 1000)]) - 1
    assert made.mean().abs() < 0.005
    assert made.std().item() == pytest.approx(0.5, rel=0.01)
    assert (made.abs() < 0.5).double().mean().item() == pytest.approx(0.6827, abs=0.005)


def test_uniform_routers_keep_within_one_over_the_root_of_the_width():
    OpCase(draws, {"kind": "uniform"}, models=[torch.ones(5, 16)]).check()
    made = run_op(draws, {"kind": "uniform"}, models=[torch.full((1000, 16), 9.0)])
    assert 0.249 < made.abs().max() <= 0.25
    assert made.mean().abs() < 0.005
    assert made.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.01)


def test_normal_routers_have_deviation_one():
    OpCase(draws, {"kind": "normal"}, models=[torch.ones(5, 16)]).check()
    made = run_op(draws, {"kind": "normal"}, models=[torch.full((1000, 100), 9.0)])
    assert made.mean().abs() < 0.01
    assert made.std().item() == pytest.approx(1, rel=0.01)


def test_no_bias_is_zeros_of_a_length():
    OpCase(no_bias, {"size": 3}, models=[torch.ones(8)], expected=torch.zeros(3)).check()
    assert run_op(no_bias, {"size": 3}, models=[torch.ones(8).bfloat16()]).dtype == torch.bfloat16


def test_a_router_row_points_at_the_mean_of_the_prompts_tokens():
    """(6, 8) alone is (0.6, 0.8); the mean of the next three is (0, 1)."""
    OpCase(
        router_of_prompts,
        {"tokens": [[1, 0], [3, 0]]},
        models=[TOKENS[:4]],
        expected=torch.tensor([[0.6, 0.8], [0.0, 1.0]]),
    ).check()


def test_negative_prompts_are_taken_away_as_directions():
    """(0, 1) - (1, 0), of norm one: the lengths of the means do not matter."""
    made = run_op(router_of_prompts, {"tokens": [[2, 1]]}, models=[TOKENS[[1, 2, 4]]])
    assert made[0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_opposite_tokens_leave_a_row_of_zeros():
    made = run_op(router_of_prompts, {"tokens": [[2, 0]]}, models=[torch.tensor([[1.0, 2.0], [-1.0, -2.0]])])
    assert made.tolist() == [[0, 0]]


HALF = 0.5**0.5
STATES = {
    "last": torch.tensor([[3.0, 4.0], [0.0, 2.0], [2.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
    "mean": torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 5.0]], dtype=torch.float64),
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # (3, 4) alone; (0, 2) less the mean of (2, 0) and (1, 1), which is (-1.5, 1.5)
        ({"prompts": [[1, 0], [1, 2]], "first": 0, "mean": False}, [[0.6, 0.8], [-HALF, HALF]]),
        # the mean (1.5, 3) of two less (2, 0): (-0.5, 3), whose square is 9.25
        (
            {"prompts": [[2, 1], [1, 0]], "first": 0, "mean": False},
            [[-0.5 / 9.25**0.5, 3 / 9.25**0.5], [HALF] * 2],
        ),
        # (0, 2) less the mean of (2, 0) and (0, 5): (-1, -0.5)
        ({"prompts": [[1, 0], [1, 2]], "first": 0, "mean": True}, [[1.0, 0.0], [-2 * 5**-0.5, -(5**-0.5)]]),
        ({"prompts": [[2, 1], [1, 0]], "first": 1, "mean": True}, [[0.0, 1.0]]),
    ],
)
def test_a_row_is_the_direction_of_positive_less_negative_prompts(settings, expected):
    wanted = torch.tensor(expected)
    OpCase(
        router_of_states, settings, models=[torch.ones(wanted.shape)], statistics=STATES, expected=wanted
    ).check()


def test_prompts_that_are_no_different_leave_a_row_of_zeros():
    same = {name: states[[0, 0]] for name, states in STATES.items()}
    told = {"prompts": [[1, 1]], "first": 0, "mean": False}
    OpCase(
        router_of_states, told, models=[torch.ones(1, 2)], statistics=same, expected=torch.zeros(1, 2)
    ).check()
