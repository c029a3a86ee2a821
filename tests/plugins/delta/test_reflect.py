"""ETHER's reflections: numbers by hand, the formula in float64 for every form, and a base's own found again."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_emitting_op
from surgery_delta._checks import checks
from surgery_delta._reflect import fitted
from surgery_delta.reflect import Reflect, parts, reflect
from tests.plugins.delta.conftest import UP, applied, back, normal, read, stored

STACK = Role("experts.up", layer=0)
FORMS = [
    {"method": method, "side": side, "cut": cut}
    for method, side, cut in itertools.product(
        ("ether", "ether_plus"), ("in", "out", "both"), ("columns", "rows")
    )
    if (side, cut) != ("out", "rows")
]
NAMES = ["-".join(form.values()) for form in FORMS]


def given_vectors(base: torch.Tensor, made: dict[str, torch.Tensor], **params: object) -> torch.Tensor:
    """Return a base with vectors that were not fitted."""
    return read(applied(reflect, {**made, "base": checks(base)}, base, **params))


def diagonal(u: torch.Tensor, v: torch.Tensor | None) -> torch.Tensor:
    """Return the block-diagonal matrix of vectors [blocks, w], in float64."""
    blocks = []
    for index, one in enumerate(u.double()):
        n = one / one.norm()
        if v is None:
            blocks.append(torch.eye(len(n), dtype=torch.float64) - 2 * torch.outer(n, n))
        else:
            m = v[index].double() / v[index].double().norm()
            blocks.append(torch.eye(len(n)).double() - torch.outer(n, n) + torch.outer(m, m))
    return torch.stack(blocks)


def formula(W: torch.Tensor, made: dict[str, torch.Tensor], cut: str) -> torch.Tensor:
    """Return H·W·H by whole matrices, in float64; with `cut: rows` by the reshape of the authors' code."""
    W = W.double()
    if "u_out" in made:
        W = torch.block_diag(*diagonal(made["u_out"], made.get("v_out"))) @ W
    if "u_in" in made:
        blocks = diagonal(made["u_in"], made.get("v_in"))
        if cut == "columns":
            return W @ torch.block_diag(*blocks)
        count, size = len(blocks), blocks.shape[-1]
        return torch.einsum("rfm,rmn->rfn", W.reshape(count, W.shape[0], size), blocks).reshape(W.shape)
    return W


def some(shape: tuple[int, int], blocks: int, method: str, side: str, seed: int) -> dict[str, torch.Tensor]:
    """Return random vectors of any length."""
    sides = {"in": shape[1], "out": shape[0]}
    made = {}
    for name in [side] if side != "both" else ["out", "in"]:
        for which in "u" if method == "ether" else "uv":
            seed += 1
            made[f"{which}_{name}"] = 3 * normal(blocks, sides[name] // blocks, seed=seed)
    return made


def test_the_first_axis_turns_the_first_input_or_output():
    base = torch.tensor([[1.0, 2], [3, 4]])
    e = torch.tensor([[7.0, 0]])  # of any length
    assert given_vectors(base, {"u_in": e}, blocks=1).tolist() == [[-1, 2], [-3, 4]]
    assert given_vectors(base, {"u_out": e}, blocks=1, side="out").tolist() == [[-1, -2], [3, 4]]


def test_a_slanted_plane_by_hand():
    """u = [3, 4]/5 of I: [[7, -24], [-24, -7]]/25, and on both sides I again."""
    u = torch.tensor([[3.0, 4]])
    found = given_vectors(torch.eye(2), {"u_in": u}, blocks=1)
    torch.testing.assert_close(25 * found, torch.tensor([[7.0, -24], [-24, -7]]))
    both = given_vectors(torch.eye(2), {"u_in": u, "u_out": u}, blocks=1, side="both")
    torch.testing.assert_close(both, torch.eye(2))


def test_zeros_turn_nothing_not_a_bit():
    base = normal(4, 6)
    for form in FORMS:
        made = {
            name: torch.zeros_like(u) for name, u in some((4, 6), 2, form["method"], form["side"], 0).items()
        }
        assert torch.equal(given_vectors(base, made, blocks=2, **form), base)


def test_a_part_of_the_rows_turns_all_its_stretches_of_columns():
    """With `cut: rows` vector 0 belongs to the upper row and vector 1 to the lower, for both pairs of columns."""
    u = torch.tensor([[1.0, 0], [0, 1]])
    params = {"blocks": 2, "cut": "rows"}
    assert given_vectors(torch.ones(2, 4), {"u_in": u}, **params).tolist() == [[-1, 1, -1, 1], [1, -1, 1, -1]]
    assert given_vectors(torch.ones(2, 4), {"u_in": u}, blocks=2).tolist() == [[-1, 1, 1, -1]] * 2


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_what_is_read_is_the_formula(form):
    @given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
    @settings(max_examples=10, deadline=None)
    def check(blocks, high, wide, seed):
        base = normal(blocks * high, blocks * wide, seed=seed)
        made = some(tuple(base.shape), blocks, form["method"], form["side"], seed)
        found = given_vectors(base, made, blocks=blocks, **form)
        torch.testing.assert_close(found.double(), formula(base, made, form["cut"]), rtol=0, atol=4e-6)

    check()


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_blocks_of_rows_make_the_whole(form, monkeypatch):
    """Rows are read 43 at a time, and 7 for the base's products with vectors; blocks of outputs have 30."""
    monkeypatch.setattr("surgery_delta._reflect._PIECE", 1500 * 7)
    base = normal(90, 1500)
    made = some((90, 1500), 3, form["method"], form["side"], 1)
    found = given_vectors(base, made, blocks=3, **form)
    torch.testing.assert_close(found.double(), formula(base, made, form["cut"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_bases_own_reflections_are_found_again(form):
    base = normal(24, 16, seed=3)
    made = some((24, 16), 2, form["method"], form["side"], 4)
    model = formula(base, made, form["cut"]).float()
    params = {"blocks": 2, "sweeps": 15 if form["side"] == "both" else 100, **form}
    found = back(reflect, model, base, **params)
    lost = float((found - model).norm() / (model - base).norm())
    if form["side"] == "both":  # turns between the sides may end in a local best
        assert lost < 0.95
    else:
        assert lost < 1e-5


def test_both_sides_are_never_worse_than_one():
    base, model = normal(12, 8, seed=1).double(), normal(12, 8, seed=2).double()
    for method in ("ether", "ether_plus"):
        left = {
            side: fitted(base, model, Reflect(method=method, side=side, blocks=2))[1]
            for side in ("out", "both")
        }
        assert left["both"] <= left["out"] * (1 + 1e-12)


@pytest.mark.parametrize("method", ["ether", "ether_plus"])
def test_no_sweep_adds_to_the_error(method):
    base, model = normal(12, 8, seed=1).double(), normal(12, 8, seed=2).double()
    left = [
        fitted(base, model, Reflect(method=method, side="both", blocks=2, sweeps=sweeps))[1]
        for sweeps in range(1, 6)
    ]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(left))


def test_a_fine_tune_that_is_no_reflection_keeps_little_and_says_so():
    base = normal(20, 12, seed=1)
    model = base + 0.01 * normal(20, 12, seed=2)
    notes: dict[str, float] = {}
    run_emitting_op(reflect, {}, [model], base, name="w", role=UP, notes=notes)
    assert notes["energy"] < 0.3
    error = (back(reflect, model, base) - model).double().square().sum()
    whole = (model - base).double().square().sum()
    assert notes["energy"] == pytest.approx(1 - float(error / whole), abs=1e-4)


def test_experts_in_one_tensor_are_turned_each():
    base = normal(3, 8, 6, seed=1)
    turned = [some((8, 6), 2, "ether", "in", seed) for seed in (5, 6, 7)]
    model = torch.stack([formula(W, made, "columns") for W, made in zip(base, turned, strict=True)]).float()
    assert stored(reflect, model, base, role=STACK, blocks=2)["u_in"].shape == (3, 2, 3)
    torch.testing.assert_close(back(reflect, model, base, role=STACK, blocks=2), model, rtol=0, atol=1e-5)
    out = [some((8, 6), 2, "ether", "out", seed) for seed in (5, 6, 7)]
    model = torch.stack([formula(W, made, "columns") for W, made in zip(base, out, strict=True)]).float()
    found = back(reflect, model, base, role=STACK, blocks=2, side="out")
    torch.testing.assert_close(found, model, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "params", "said"),
    [
        ((8, 10), {}, "10 inputs are not 4 equal blocks"),
        ((10, 8), {"side": "out"}, "10 outputs are not 4 equal blocks"),
        ((10, 8), {"cut": "rows"}, "10 outputs are not 4 equal blocks"),
        ((9, 9), {"side": "both", "blocks": 2}, "9 inputs are not 2 equal blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_work(shape, params, said):
    spec = TensorSpec("w", shape, "BF16")
    signature = Signature("w", (spec,), spec, (), UP, spec.numel)
    assert reflect.check is not None
    assert reflect.check(signature, Reflect(**params)) == (
        f"{said}; choose `blocks` that divide them, or leave it out with `where:`"
    )
    assert reflect.check(signature, Reflect(**(params | {"blocks": 1}))) is None
    assert (
        reflect.check(Signature("w", (spec,), spec, (), Role("norm"), spec.numel), Reflect(**params)) is None
    )


def test_vectors_are_all_that_is_stored():
    spec = TensorSpec("w", (4096, 1024), "BF16")
    signature = Signature("w", (spec,), spec, (), UP, spec.numel)

    def numbers(**params: object) -> dict[str, int]:
        return {part.spec.name: part.spec.numel for part in parts(signature, Reflect(**params))}

    assert numbers() == {"w.u_in": 1024, "w.base": 64}
    plus = numbers(method="ether_plus", side="both")
    assert plus == {"w.u_out": 4096, "w.v_out": 4096, "w.u_in": 1024, "w.v_in": 1024, "w.base": 64}


def test_what_is_decoded_for_all_blocks_is_declared():
    made = stored(reflect, normal(8, 12), normal(8, 12), side="both")
    checkpoint = applied(reflect, made, normal(8, 12), side="both")
    assert checkpoint.whole_file_bytes() == 8 * (8 + 12 + 4 * 12)
