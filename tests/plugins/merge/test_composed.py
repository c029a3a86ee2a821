"""Steps of steps through the engine: whole-model weights, masks and copies on a tiny Llama, from recipe to tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import surgery
import surgery_merge
from surgery import PlanError, RunOptions
from surgery.testing import run_op, same_bytes, save_tiny
from surgery_hf.architectures import ARCHITECTURES

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(["base", "a", "b"]):
        save_tiny(folder / name, seed=seed)
    save_tiny(folder / "deep", layers=3)
    return folder


@pytest.fixture(scope="module")
def tensors(zoo):
    return {name: load_file(zoo / name / "model.safetensors") for name in ("base", "a", "b")}


def recipe(zoo: Path, *steps: str) -> surgery.LoadedRecipe:
    """Return a recipe of the steps s1, s2, ...; the last is what comes out."""
    lines = [f"  s{index}: {{{step}}}" for index, step in enumerate(steps, 1)]
    models = "models: {base: ./base, a: ./a, b: ./b, deep: ./deep}"
    text = "\n".join(["surgery: 1", models, "steps:", *lines, f"output: {{model: s{len(steps)}}}"])
    return surgery.loads(text, folder=zoo)


def made(zoo: Path, *steps: str) -> dict[str, torch.Tensor]:
    return dict(surgery.state_dict(recipe(zoo, *steps)))


def refusal(zoo: Path, *steps: str) -> str:
    with pytest.raises(PlanError) as error:
        recipe(zoo, *steps).resolve(write=False)
    return str(error.value)


def deltas(tensors, name):
    return {key: (tensors[name][key] - value).double() for key, value in tensors["base"].items()}


def pools(names, scope):
    """Return the tensors that belong together."""
    found = {}
    for name in names:
        layer = ARCHITECTURES[0].role_of(name).layer if scope == "layer" else None
        found.setdefault(layer, []).append(name)
    return list(found.values())


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_metagpt_shares_norms_over_the_tensors_of_a_pool(zoo, tensors, scope):
    merged = made(zoo, f"op: merge.metagpt, base: base, models: [a, b], scope: {scope}")
    a, b = deltas(tensors, "a"), deltas(tensors, "b")
    for names in pools(merged, scope):
        na, nb = (sum(float(delta[name].square().sum()) for name in names) for delta in (a, b))
        for name in names:
            wanted = tensors["base"][name].double() + (na * a[name] + nb * b[name]) / (na + nb)
            assert torch.allclose(merged[name].double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_sum_is_brought_back_to_its_parents_length(zoo, tensors, scope):
    merged = made(
        zoo,
        "op: merge.task_arithmetic, base: base, models: [b, a]",
        f"op: merge.renorm, base: base, models: [s1, a, b], scope: {scope}",
    )
    a, b = deltas(tensors, "a"), deltas(tensors, "b")
    for names in pools(merged, scope):
        result = {name: merged[name].double() - tensors["base"][name].double() for name in names}
        lengths = [sum(float(d[name].square().sum()) for name in names) ** 0.5 for d in (result, a, b)]
        assert lengths[0] == pytest.approx((lengths[1] + lengths[2]) / 2, rel=1e-6)


def test_lines_is_a_ramp_or_a_ramp_on_a_renormed_merge(zoo, tensors):
    """α + β·l/(L-1) with α = ‖Σ τ‖/(T·‖τ_m‖), which is 1/T for a sum; else α times the ramp from 1 to 1 + β/α."""
    summed = made(zoo, "op: merge.task_arithmetic, base: base, models: [a, b], lambda: [0.5, 0.8]")
    largest = made(
        zoo,
        "op: merge.magmax, base: base, models: [a, b], lambda: 1.0",
        "op: merge.renorm, base: base, models: [s1, a, b], norm: average, scope: model",
        "op: merge.task_arithmetic, base: base, models: [s2], lambda: [1, 1.5]",
    )
    a, b = deltas(tensors, "a"), deltas(tensors, "b")
    most = {name: torch.where(b[name].abs() > a[name].abs(), b[name], a[name]) for name in a}

    def norm(delta):
        return sum(float(values.square().sum()) for values in delta.values()) ** 0.5

    alpha = norm({name: a[name] + b[name] for name in a}) / 2 / norm(most)
    for name, base in tensors["base"].items():
        last = "layers.1." in name or name in (HEAD, "model.norm.weight")
        wanted = base.double() + (0.8 if last else 0.5) * (a[name] + b[name])
        assert torch.allclose(summed[name].double(), wanted, rtol=1e-6, atol=1e-6)
        wanted = base.double() + alpha * (1.5 if last else 1) * most[name]
        assert torch.allclose(largest[name].double(), wanted, rtol=1e-6, atol=1e-6)


def test_emr_serves_a_task_through_its_mask_and_scale(zoo, tensors):
    seen = made(
        zoo,
        "op: merge.emr, base: base, models: [a, b]",
        "op: merge.emr_task, base: base, models: [s1, b]",
    )
    a, b = deltas(tensors, "a"), deltas(tensors, "b")
    # where both agree in sign the larger stays, else the one that is larger: the same
    unified = {name: torch.where(a[name].abs() > b[name].abs(), a[name], b[name]) for name in a}
    masked = {name: torch.where(b[name] * unified[name] > 0, unified[name], 0) for name in a}
    scale = sum(t.abs().sum() for t in b.values()) / sum(t.abs().sum() for t in masked.values())
    for name, base in tensors["base"].items():
        wanted = base.double() + scale * masked[name]
        assert torch.allclose(seen[name].double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_transplant_and_an_assembly_leave_the_rest_alone(zoo, tensors):
    for step in (
        "op: merge.transplant, models: [b, a], where: mlp",
        "op: merge.assemble, models: {b: {weight: 0}, a: {weight: 1}}, where: mlp",
        "op: merge.assemble, models: {b: {weight: {mlp: 0, default: 1}}, a: {weight: {mlp: 1, default: 0}}}",
    ):
        merged = made(zoo, step)
        assert all(
            same_bytes(values, tensors["a" if ".mlp." in name else "b"][name])
            for name, values in merged.items()
        )


def test_reset_and_fallback_move_bytes_alone(zoo, tensors):
    merged = made(zoo, "op: merge.reset, base: base, model: a, fraction: 0.5, seed: 3")
    whose = [same_bytes(values, tensors["base"][name]) for name, values in merged.items()]
    assert all(
        back or same_bytes(merged[name], tensors["a"][name]) for name, back in zip(merged, whose, strict=True)
    )
    assert 0.3 < sum(whose) / len(whose) < 0.7
    plan = recipe(zoo, "op: merge.fallback, models: [a, b]").resolve(write=False).plan
    assert {type(tensor.node).__name__ for tensor in plan.outputs[0].tensors} == {"Source"}


def test_pieces_and_threads_do_not_change_a_composed_merge(zoo, tmp_path):
    steps = (
        "op: merge.consensus, base: base, models: {a: {density: 0.4}, b: {density: 0.4}}, merged: ties, "
        "scope: layer, k: 1",
        "op: merge.renorm, base: base, models: [s1, a, b], scope: layer",
    )
    outputs = []
    for index, options in enumerate((RunOptions(threads=1), RunOptions(threads=2, chunk=64))):
        recipe(zoo, *steps).run(options, out=tmp_path / str(index))
        outputs.append((tmp_path / str(index) / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1000


def test_what_a_plan_refuses(zoo):
    ramp = "op: merge.metagpt, base: base, models: [a, b], lambda: [0.5, 1]"
    assert refusal(zoo, ramp).endswith(
        "a ramp or a map of selectors has no meaning for tensors that share a statistic; "
        "write numbers, or choose tensors that do not with `where:`"
    )
    assert refusal(zoo, "op: merge.fallback, models: [base, deep]").endswith(
        "`deep` has 3 layers and `base` 2; name `deep` first, or cut it with stitch.layers"
    )
    assert refusal(zoo, "op: merge.renorm, base: base, models: [a]").endswith(
        "norm: mean needs models to compare with (and 20 more such tensors); "
        "list them behind the merged one, or give a number"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["extrapolate", "transplant", "magmax", "emr", "metagpt"])
def test_ops_that_are_not_checked_for_nan_and_inf_pass_them_on(name, bad):
    op = next(op for op in surgery_merge.surgery_register_ops() if op.name == f"merge.{name}")
    assert op.propagates
    values = [torch.tensor([1.0, -2.0, 3.0]) * (i + 1) for i in range(3)]
    params = (
        {}
        if name == "metagpt"
        else {"alpha": 0.3}
        if name in ("extrapolate", "transplant")
        else {"lambda": 0.3}
    )
    for place in range(op.models[1] or 2):
        models = [value.clone() for value in values[1 : 1 + (op.models[1] or 2)]]
        models[place][1] = bad
        merged = run_op(op, params, models, values[0] if op.base == "required" else None)
        assert not torch.isfinite(merged[1])
    if op.base == "required":
        base = values[0].clone()
        base[1] = bad
        assert not torch.isfinite(run_op(op, params, values[1 : 1 + (op.models[1] or 2)], base)[1])
