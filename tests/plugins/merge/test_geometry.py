"""The ops that work with lengths and angles, through the engine: from a recipe to the tensors of a tiny Llama."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery import PlanError, RunOptions
from surgery.testing import run_model_op, run_op, same_bytes, save_tiny
from surgery_hf.architectures import ARCHITECTURES
from surgery_merge.arcee_fusion import ArceeFusionOp
from surgery_merge.geometric_median import GeometricMedianOp
from surgery_merge.karcher import KarcherOp
from surgery_merge.model_stock import ModelStockOp
from surgery_merge.multislerp import MultislerpOp
from surgery_merge.nearswap import nearswap
from surgery_merge.nuslerp import NuslerpOp

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(["base", *NAMES]):
        save_tiny(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def tensors(zoo):
    return {name: load_file(zoo / name / "model.safetensors") for name in ("base", *NAMES)}


def recipe(zoo: Path, step: str) -> surgery.LoadedRecipe:
    models = "models: {base: ./base, a: ./a, b: ./b, c: ./c}"
    text = "\n".join(["surgery: 1", models, "steps:", f"  m: {{{step}}}", "output: {model: m}"])
    return surgery.loads(text, folder=zoo)


@pytest.mark.parametrize(
    ("op", "params", "step", "models", "each", "base"),
    [
        (NuslerpOp, {}, "op: merge.nuslerp, models: {a: 1, b: 3}", "ab", [1, 3], False),
        (
            NuslerpOp,
            {"flatten": False},
            "op: merge.nuslerp, base: base, models: {a: 1, b: 3}, flatten: false",
            "ab",
            [1, 3],
            True,
        ),
        (
            NuslerpOp,
            {"flatten": False, "axis": "columns"},
            "op: merge.nuslerp, models: {a: 1, b: 3}, flatten: false, axis: columns",
            "ab",
            [1, 3],
            False,
        ),
        (MultislerpOp, {}, "op: merge.multislerp, models: {a: 1, b: 2, c: 3}", "abc", [1, 2, 3], False),
        (KarcherOp, {}, "op: merge.karcher, models: [a, b, c]", "abc", [1, 1, 1], False),
        (
            KarcherOp,
            {"space": "delta"},
            "op: merge.karcher, base: base, models: {a: 1, b: 2}, space: delta",
            "ab",
            [1, 2],
            True,
        ),
        (
            GeometricMedianOp,
            {},
            "op: merge.geometric_median, models: {a: 1, b: 1, c: 1.5}",
            "abc",
            [1, 1, 1.5],
            False,
        ),
        (nearswap, {"t": 0.01}, "op: merge.nearswap, base: base, model: a, t: 0.01", "a", None, True),
        (ArceeFusionOp, {}, "op: merge.arcee_fusion, base: base, model: a", "a", None, True),
        (ModelStockOp, {}, "op: merge.model_stock, base: base, models: [a, b, c]", "abc", None, True),
        (
            ModelStockOp,
            {"filter_wise": True, "clamp": False},
            "op: merge.model_stock, base: base, models: [a, b], filter_wise: true, clamp: false",
            "ab",
            None,
            True,
        ),
    ],
)
def test_the_engine_makes_what_the_reference_runner_makes(zoo, tensors, op, params, step, models, each, base):
    made = surgery.state_dict(recipe(zoo, step))
    assert set(made) == set(tensors["base"])
    for name, origin in tensors["base"].items():
        wanted = run_op(
            op,
            params,
            [tensors[model][name] for model in models],
            origin if base else None,
            each=[{"weight": weight} for weight in each] if each else None,
        )
        assert same_bytes(made[name], wanted), name


@pytest.mark.parametrize(
    ("op", "step", "with_base"),
    [
        (ModelStockOp, "op: merge.model_stock, base: base, models: [a, b, c]", True),
        (GeometricMedianOp, "op: merge.geometric_median, models: [a, b, c]", False),
    ],
)
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_layers_and_models_have_one_statistic(zoo, tensors, op, step, with_base, scope):
    made = surgery.state_dict(recipe(zoo, f"{step}, scope: {scope}"))
    pools: dict[int | None, list[str]] = {}
    for name in tensors["base"]:
        layer = ARCHITECTURES[0].role_of(name).layer if scope == "layer" else None
        pools.setdefault(layer, []).append(name)
    assert len(pools) == (3 if scope == "layer" else 1)
    for pool in pools.values():
        whole = {model: {name: tensors[model][name] for name in pool} for model in ("base", *NAMES)}
        base = whole.pop("base") if with_base else None
        whole.pop("base", None)
        each = None if with_base else {model: {} for model in whole}
        wanted = run_model_op(op, {"scope": scope}, whole, base, each)
        assert all(same_bytes(made[name], wanted[name]) for name in pool)


def test_threads_and_chunks_change_no_byte(zoo, tmp_path):
    written = []
    for index, options in enumerate([RunOptions(threads=1), RunOptions(threads=2, chunk=4096)]):
        out = tmp_path / str(index)
        step = "op: merge.nuslerp, models: {a: 1, b: 3}, flatten: false, axis: columns"
        recipe(zoo, step).resolve(out=out).run(options)
        written.append((out / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_directions_that_cancel_are_told_with_the_tensor(zoo, tensors, tmp_path):
    save_tiny(tmp_path / "b", seed=1)
    opposite = {name: -values for name, values in tensors["a"].items()}
    save_file(opposite, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    text = (
        f"surgery: 1\nmodels: {{a: {zoo / 'a'}, b: ./b}}\nsteps:\n"
        "  m: {op: merge.multislerp, models: {a: 1, b: 1}}\noutput: {model: m}"
    )
    with pytest.raises(surgery.OpError, match=r"merge\.multislerp: .+: the directions of 2 models cancel"):
        dict(surgery.state_dict(surgery.loads(text, folder=tmp_path)).items())


EVERY = pytest.mark.parametrize(
    ("op", "params", "with_base"),
    [
        (NuslerpOp, {}, False),
        (NuslerpOp, {"flatten": False}, True),
        (NuslerpOp, {"flatten": False, "axis": "columns"}, False),
        (MultislerpOp, {}, False),
        (KarcherOp, {}, False),
        (KarcherOp, {"space": "delta"}, True),
        (GeometricMedianOp, {}, False),
        (ModelStockOp, {}, True),
        (ModelStockOp, {"filter_wise": True}, True),
        (nearswap, {"t": 1.0}, True),
        (ArceeFusionOp, {}, True),
    ],
)


def inputs(op, with_base, shape, dtype=torch.float32):
    """Return models, base and each model's parameters."""
    generator = torch.Generator().manual_seed(0)
    base, *models = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    models = models[: op.models[1]]
    return models, base if with_base else None, [{"weight": 1}] * len(models) if op.each else None


@EVERY
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_tensors_stay_empty(op, params, with_base, shape):
    assert run_op(op, params, *inputs(op, with_base, shape)).shape == shape


@EVERY
def test_float64_is_computed_in_float64_and_not_written_to(op, params, with_base):
    models, base, each = inputs(op, with_base, (20, 30))
    narrow = run_op(op, params, models, base, each)
    wide = run_op(op, params, [m.double() for m in models], base if base is None else base.double(), each)
    assert wide.dtype is torch.float64
    assert torch.allclose(wide.float(), narrow, rtol=1e-5, atol=1e-6)


@EVERY
def test_bfloat16_is_rounded_once(op, params, with_base):
    models, base, each = inputs(op, with_base, (20, 30), torch.bfloat16)
    exact = run_op(op, params, [m.float() for m in models], base if base is None else base.float(), each)
    assert same_bytes(run_op(op, params, models, base, each), exact.bfloat16())


def test_what_cannot_be_meant_is_found_while_planning(zoo):
    with pytest.raises(PlanError) as error:
        recipe(zoo, "op: merge.karcher, models: [a, b], space: delta").resolve(write=False)
    assert str(error.value) == (
        "<recipe>:4:6: steps.m: lm_head.weight: space: delta needs a base (and 20 more such tensors); "
        "name one in `base:`"
    )
