"""Statistics of a whole run: what a plain run of the whole model gives, whatever the workers and interruptions."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import surgery
from surgery import OpError, PlanError, ResourceError, RunOptions
from surgery.calibrate.prepare import prepare
from surgery.plan.calibration import calibrations_of

SEEN = {"x": {"op": "cal.seen", "model": "base", "where": "mlp"}}


def ids_of(recipe: surgery.LoadedRecipe) -> torch.Tensor:
    plan = recipe.resolve(write=False).plan
    return prepare(calibrations_of(tensor.node for tensor in plan.outputs[0].tensors)[0]).ids


def see(total, module, args) -> None:
    rows = args[0].flatten(0, -2).double()
    total[0] += rows.square().sum(0)
    total[1] += len(rows)


@torch.no_grad()
def reference(whole, ids, chosen, change, head=False) -> dict[str, torch.Tensor]:
    """Go through a whole model in memory: hooks on every chosen Linear of a block, then change them."""
    parts = [(f"model.layers.{i}", block) for i, block in enumerate(whole.model.layers)]
    for prefix, part in [*parts, *([("lm_head", whole.lm_head)] if head else [])]:
        named = {f"{prefix}.{name}".rstrip("."): module for name, module in part.named_modules()}
        linears = {n: m for n, m in named.items() if isinstance(m, torch.nn.Linear) and chosen in n}
        found = {name: [torch.zeros(m.in_features, dtype=torch.float64), 0] for name, m in linears.items()}

        hooks = [
            module.register_forward_pre_hook(partial(see, found[name])) for name, module in linears.items()
        ]
        for row in ids:
            whole(row[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        for name, module in linears.items():
            module.weight.copy_(change(module.weight, *found[name]))
    return whole.state_dict()


def scaled(weight, squares, tokens):
    return weight * (squares / tokens).sqrt().float()


def fresh(model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()


def same(made, expected):
    assert made.keys() <= expected.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_each_block_sees_what_the_changed_blocks_before_it_make(bench, models):
    ids = ids_of(bench.recipe(SEEN))
    assert ids.shape == (6, 24)
    made = bench.run(SEEN)
    same(made, reference(fresh(models("llama")), ids, "mlp", scaled))
    unchanged = reference(fresh(models("llama")), ids, "layers.0.mlp", scaled)
    assert not torch.allclose(
        made["model.layers.1.mlp.up_proj.weight"], unchanged["model.layers.1.mlp.up_proj.weight"]
    )


def test_the_model_that_is_run_is_what_the_plan_computes(bench, models):
    model = models("llama")
    other = {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in model.tensors.items()}
    bench.model("other", other, model)
    merged = {"m": {"op": "merge.linear", "models": {"base": 0.5, "other": 0.5}}}
    steps = merged | {"x": {**SEEN["x"], "model": "m"}}
    whole = fresh(model)
    whole.load_state_dict(bench.run(merged, to="merged"))
    same(bench.run(steps), reference(whole, ids_of(bench.recipe(steps)), "mlp", scaled))


def test_the_head_sees_what_comes_behind_the_last_norm(bench, models):
    steps = {"x": {"op": "cal.seen", "model": "base", "where": ["lm_head.weight", "layers[1].mlp"]}}
    made = bench.run(steps)
    whole = fresh(models("llama"))
    expected = reference(whole, ids_of(bench.recipe(steps)), "layers.1.mlp", scaled)
    assert torch.equal(
        made["model.layers.0.mlp.up_proj.weight"], expected["model.layers.0.mlp.up_proj.weight"]
    )
    same(made, reference(whole, ids_of(bench.recipe(steps)), "lm_head", scaled, head=True))


def test_a_calibrated_step_may_follow_another(bench, models):
    steps = SEEN | {"y": {"op": "cal.whole", "model": "x", "where": "attention"}}
    ids = ids_of(bench.recipe(SEEN))
    whole = fresh(models("llama"))
    reference(whole, ids, "mlp", scaled)
    same(bench.run(steps), reference(whole, ids, "self_attn", scaled))


def test_experts_see_the_tokens_that_are_routed_to_them(bench, models):
    model = models("mixtral")
    bench.model("mix", model.tensors, model)
    name = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
    steps = {"x": {"op": "cal.seen", "model": "mix", "where": "layers[0].experts"}}
    ids = ids_of(bench.recipe(steps))
    made = bench.run(steps)
    block, routed = model.whole.model.layers[0].mlp, []
    hook = block.experts.register_forward_pre_hook(lambda module, args: routed.append(args[:2]))
    with torch.no_grad():
        for row in ids:
            model.whole(row[None], use_cache=False)
    hook.remove()
    for expert in range(4):
        rows = torch.cat([x[(index == expert).any(-1)] for x, index in routed])
        assert 0 < len(rows) < ids.numel()
        for part in ("w1", "w3"):
            source = model.tensors[name.format(expert, part)]
            expected = scaled(source, rows.double().square().sum(0), len(rows))
            torch.testing.assert_close(made[name.format(expert, part)], expected, rtol=1e-5, atol=1e-6)


def test_workers_state_dicts_and_kinds_of_ops_give_the_same_bytes(bench):
    one = bench.run(SEEN, RunOptions(device="cpu", threads=1))
    three = bench.run(SEEN, RunOptions(device="cpu", threads=3), to="out3")
    whole = bench.run({"x": {**SEEN["x"], "op": "cal.whole"}}, to="out1")
    lazy = surgery.state_dict(bench.recipe(SEEN))
    for name, tensor in one.items():
        assert torch.equal(tensor, three[name])
        assert torch.equal(tensor, whole[name])
        assert torch.equal(tensor, lazy[name])


def test_the_seed_and_the_text_change_the_result_and_nothing_is_left(bench):
    first = bench.run(SEEN)
    bench.settings["seed"] = 1
    assert any(not torch.equal(tensor, first[name]) for name, tensor in bench.run(SEEN).items())
    assert sorted(path.name for path in (bench.folder / "out").iterdir() if path.name.startswith(".")) == []
    assert not (bench.folder / "out.partial").exists()


def test_progress_says_which_block_is_run(bench, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("surgery.execute.run._Run._say", lambda self, text: said.append(text))
    bench.run(SEEN)
    assert said == [*(f"x: activations of block {block} of 3" for block in (1, 2, 3)), ""]


def test_a_text_that_is_too_short_is_refused_before_any_work(bench):
    bench.settings["samples"] = 1000
    with pytest.raises(
        PlanError, match=r"step x: the calibration text is enough for \d+ samples of 24 tokens"
    ):
        bench.run(SEEN)
    assert not (bench.folder / "out.partial").exists()


def test_activations_that_are_not_finite_are_refused(bench, models):
    model = models("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    bench.model("hot", model.tensors | {name: model.tensors[name] * 1e38}, model)
    said = (
        r"step x: the inputs of model.layers.2.mlp.\w+.weight on the calibration text are not finite; check "
    )
    with pytest.raises(OpError, match=said):  # block 1 makes numbers that block 2 cannot square
        bench.run({"x": {**SEEN["x"], "model": "hot"}})


def test_a_budget_that_is_too_small_is_refused_before_any_work(bench):
    with pytest.raises(
        ResourceError, match=r"schedule: step x needs 1\d\d.\d MiB to run a block of the model on 24 tok"
    ):
        bench.run(SEEN, RunOptions(device="cpu", memory=128 * 2**20))
    assert not (bench.folder / "out.partial").exists()
