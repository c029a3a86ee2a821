"""What sparse merges share within a model, run by the engine: shares of layers and of models, rows, whole tensors."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery.ops import Op
from surgery.testing import run_model_op, run_op, same_bytes, save_tiny, tiny_llama
from surgery_merge.breadcrumbs import BreadcrumbsOp
from surgery_merge.breadcrumbs_ties import BreadcrumbsTiesOp
from surgery_merge.della import DellaOp
from surgery_merge.della_linear import DellaLinearOp
from surgery_merge.pcb import PcbOp
from surgery_merge.ram import RamOp
from surgery_merge.ramplus import RamPlusOp
from surgery_merge.sce import SceOp
from surgery_merge.ties import TiesOp

HALF = {"density": 0.5}


def _named(value):
    return value.name if isinstance(value, Op) else str(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        save_tiny(made / name, seed=seed, layers=3)
    return made


def merged(folder, op, params, each):
    """Return what the engine makes of b and c on the base a."""
    models = {"b": each, "c": each} if each else ["b", "c"]
    step = {"op": op.name, "base": "a", "models": models, **params}
    recipe = {"surgery": 1, "models": {name: f"./{name}" for name in "abc"}, "steps": {"m": step}}
    recipe["output"] = {"model": "m", "to": "./out"}
    return dict(surgery.state_dict(surgery.loads(yaml.safe_dump(recipe, sort_keys=False), folder=folder)))


def tensors():
    return {name: tiny_llama(seed=seed, layers=3)[0] for seed, name in enumerate("abc")}


def layer_of(name):
    return name.split(".")[2] if ".layers." in name else "outside"


@pytest.mark.parametrize(
    ("op", "rescaled", "each"),
    [
        (TiesOp, {}, HALF),
        (TiesOp, {"rescale": "l1"}, HALF),
        (BreadcrumbsOp, {"rescale": "l1"}, HALF),
        (BreadcrumbsTiesOp, {}, HALF),
        (PcbOp, {}, None),
        (RamPlusOp, {"epsilon": 0.03, "alpha": 100.0}, None),
    ],
    ids=_named,
)
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_shares_are_those_of_a_layer_or_of_the_model(folder, op, scope, rescaled, each):
    """A layer is what a model of that layer alone would be; what lies outside layers counts as one."""
    made = merged(folder, op, {"scope": scope, **rescaled}, each)
    all_of = tensors()
    pools = {layer_of(name) if scope == "layer" else "all" for name in made}
    assert len(pools) == (4 if scope == "layer" else 1)
    for pool in pools:
        parts = {
            model: {n: t for n, t in values.items() if pool in ("all", layer_of(n))}
            for model, values in all_of.items()
        }
        base = parts.pop("a")
        entries = None if each is None else dict.fromkeys("bc", each)
        wanted = run_model_op(op, {"scope": "model", **rescaled}, parts, base, entries)
        assert all(torch.equal(made[name], values) for name, values in wanted.items())


@pytest.mark.parametrize(
    ("op", "params", "each"),
    [
        (DellaOp, {}, HALF),
        (DellaOp, {"rescale": "l1"}, HALF),
        (DellaLinearOp, {"rescale": "none"}, HALF),
        (DellaLinearOp, {"rescale": "l1"}, HALF),
        (DellaOp, {"scope": "tensor"}, HALF),
        (DellaLinearOp, {"scope": "tensor", "rescale": "l1"}, HALF),
        (BreadcrumbsOp, {"rescale": "l1"}, HALF),
        (BreadcrumbsOp, {"scope": "row"}, HALF),
        (BreadcrumbsTiesOp, {"scope": "row", "rescale": "l1"}, HALF),
        (SceOp, {"select_topk": 0.4}, None),
        (RamOp, {"epsilon": "relative"}, None),
        (RamPlusOp, {}, None),
        (PcbOp, {"scope": "tensor"}, None),
    ],
    ids=_named,
)
def test_the_engine_makes_what_the_reference_runner_makes(folder, op, params, each):
    """Norms are vectors: to della one row each, in the engine as in the runner."""
    made, all_of = merged(folder, op, params, each), tensors()
    for name, values in made.items():
        models = {model: all_of[model][name] for model in "bc"}
        entries = None if each is None else dict.fromkeys("bc", each)
        wanted = run_op(op, params, models, all_of["a"][name], each=entries, name=name)
        assert same_bytes(values, wanted), name


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """Models whose weights are multiples of 1/8: most changes equal others, and many sums are 0."""
    made = tmp_path_factory.mktemp("coarse")
    for seed, name in enumerate("abc"):
        save_tiny(made / name, seed=seed, layers=2)
        values = tiny_llama(seed=seed, layers=2)[0]
        rounded = {key: (value * 400).round() / 8 for key, value in values.items()}
        save_file(rounded, made / name / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.mark.parametrize("ties", ["index", "random"])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_equals_and_majorities_are_found_by_the_engine_as_by_the_runner(coarse, scope, ties):
    params = {"scope": scope, "ties": ties, "zero_sign": "majority", "rescale": "l1"}
    made = merged(coarse, TiesOp, params, HALF)
    all_of = {name: load_file(coarse / name / "model.safetensors") for name in "abc"}
    base, each = all_of.pop("a"), dict.fromkeys("bc", HALF)
    if scope == "model":
        wanted = run_model_op(TiesOp, params, all_of, base, each)
    else:
        wanted = {
            name: run_op(TiesOp, params, {m: all_of[m][name] for m in "bc"}, base[name], each=each, name=name)
            for name in base
        }
    plain = merged(coarse, TiesOp, {"scope": scope, "rescale": "l1"}, HALF)
    assert any(not torch.equal(plain[name], values) for name, values in made.items())
    assert all(same_bytes(made[name], values) for name, values in wanted.items())


def test_a_ramp_of_densities_has_no_meaning_within_a_model(folder):
    with pytest.raises(surgery.PlanError) as error:
        merged(folder, TiesOp, {"scope": "model"}, {"density": [0.2, 0.8]})
    assert str(error.value).endswith(
        "a ramp or a map of selectors has no meaning for tensors that share a statistic; "
        "write numbers, or choose tensors that do not with `where:`"
    )


def test_layers_may_have_densities_of_their_own(folder):
    made = merged(folder, TiesOp, {"scope": "layer"}, {"density": {"layers[0]": 0.1, "default": 0.9}})
    base = tensors()["a"]

    def changed(layer):
        names = [name for name in made if layer_of(name) == layer]
        parts = [(made[name] != base[name]).double().flatten() for name in names]
        return torch.cat(parts).mean().item()

    assert changed("0") < 0.2
    assert changed("1") > 0.9
