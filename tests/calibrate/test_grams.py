"""Gram matrices of a whole run: what a plain run of the model gives, of blocks that stay as they are."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery import OpError, PlanError, RunOptions
from surgery.calibrate.store import Store
from tests.calibrate.test_runner import fresh, ids_of

STEP = {"x": {"op": "merge.gram", "model": "base"}}
UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"


@torch.no_grad()
def reference(whole, ids) -> dict[str, torch.Tensor]:
    """Return XᵀX of every Linear of a model in memory, in float64."""
    found = {}

    def see(module, args, name):
        rows = args[0].flatten(0, -2).double()
        found[f"{name}.weight"] = found.get(f"{name}.weight", 0) + rows.T @ rows

    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda module, args, name=name: see(module, args, name))
    for row in ids:
        whole(row[None], use_cache=False)
    return found


def test_a_matrix_for_each_linear_of_the_blocks_as_the_model_runs(bench, models):
    made = bench.run(STEP)
    expected = reference(fresh(models("llama")), ids_of(bench.recipe(STEP)))
    assert set(made) == {name for name in expected if ".layers." in name}
    assert (made[UP].shape, made[DOWN].shape, made[UP].dtype) == ((32, 32), (48, 48), torch.float32)
    for name, gram in made.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gram.double(), expected[name], rtol=1e-5, atol=1e-5 * scale)
        assert torch.equal(gram, gram.T)


def test_the_head_has_one_too_if_all_are_wanted(bench, models):
    made = bench.run({"x": {**STEP["x"], "targets": "all", "where": ["lm_head", "layers[0].mlp"]}})
    expected = reference(fresh(models("llama")), ids_of(bench.recipe(STEP)))["lm_head.weight"]
    assert len(made) == 4
    torch.testing.assert_close(made["lm_head.weight"].double(), expected, rtol=1e-4, atol=1e-3)


def test_no_loader_takes_them_for_a_model(bench):
    bench.run(STEP)
    files = {file.name for file in (bench.folder / "out").iterdir()}
    assert "config.json" not in files
    assert not any(name.startswith("tokenizer") for name in files)
    assert (bench.folder / "out" / "gram.json").read_text().strip() == '{\n  "gram_of": "llama"\n}'


def test_the_bytes_do_not_depend_on_the_number_of_workers(bench):
    bench.run(STEP)
    before = bench.data("out")
    bench.run(STEP, RunOptions(device="cpu", threads=1, force=True))
    assert bench.data("out") == before


def test_memory_holds_those_of_a_block_and_the_file_the_others(bench, monkeypatch):
    """What is found is read from the store's file, which the system maps, and is not kept besides."""
    opened, kept = [], Store.statistics

    def statistics(store, part):
        found = kept(store, part)
        opened.append((part, found is not None))
        return found

    monkeypatch.setattr(Store, "statistics", statistics)
    bench.run(STEP)
    assert [part for part, there in opened if there] == ["block-0", "block-1", "block-2"]


def test_experts_have_matrices_of_their_own(bench, models):
    model = models("mixtral")
    bench.model("mixture", model.tensors, model)
    made = bench.run({"x": {"op": "merge.gram", "model": "mixture", "where": "layers[0]"}})
    name = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    experts = [made[name.format(expert)] for expert in range(4)]
    attention = made["model.layers.0.self_attn.q_proj.weight"]
    assert attention.shape == experts[0].shape == (32, 32)
    assert not any(torch.equal(experts[0], other) for other in experts[1:])


def test_stacked_experts_cannot_be_told_apart(bench, models):
    model = models("mixtral")
    stacked = dict(model.tensors)
    name = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    parts = [stacked.pop(name.format(expert)) for expert in range(4)]
    stacked["model.layers.0.mlp.experts.gate_up_proj"] = torch.stack([torch.cat([p, p]) for p in parts])
    bench.model("mixture", stacked, model)
    with pytest.raises(
        PlanError, match="holds several experts, whose inputs differ; leave it out with `where:`"
    ):
        bench.recipe({"x": {"op": "merge.gram", "model": "mixture"}}).resolve(write=False)


def test_they_are_gone_on_with_after_an_interruption(bench, monkeypatch):
    bench.run(STEP)
    expected, keep, kept = bench.data("out"), Store.keep_statistics, []

    def dying(store, part, found):
        if len(kept) == 2:
            raise OpError("interrupted")
        kept.append(part)
        keep(store, part, found)

    monkeypatch.setattr(Store, "keep_statistics", dying)
    with pytest.raises(OpError, match="interrupted"):
        bench.run(STEP, to="again")
    monkeypatch.setattr(
        Store, "keep_statistics", lambda store, part, found: (kept.append(part), keep(store, part, found))
    )
    bench.run(STEP, to="again")
    assert kept == ["block-0", "block-1", "block-2"]
    assert bench.data("again") == expected


def test_each_step_may_have_a_text_of_its_own(bench):
    (bench.folder / "other.txt").write_text((bench.folder / "text.txt").read_text()[2000:])
    own = {"text": "other.txt", "samples": 3, "length": 16}
    steps = {"a": STEP["x"], "b": {**STEP["x"], "calibration": own}}
    both = {"outputs": {n: {"model": n, "to": f"./{n}"} for n in steps}, "output": None}
    bench.recipe(steps, **both).run(RunOptions(device="cpu", threads=2))
    shared = bench.data("a")
    assert bench.data("b") != shared
    bench.settings = own
    bench.run(STEP, to="alone")
    assert bench.data("alone") == bench.data("b")


def test_a_regression_on_what_was_read_is_nearer_to_the_models_than_their_mean(bench, models):
    """From recipe to tensors: on its own text each model's Linears are matched better than by the average."""
    base = models("llama")
    torch.manual_seed(1)
    other = {
        n: t + 0.3 * t.std() * torch.randn(t.shape) if t.dim() > 1 else t for n, t in base.tensors.items()
    }
    bench.model("other", other, base)
    steps = {
        "g": {"op": "merge.gram", "model": "base"},
        "h": {"op": "merge.gram", "model": "other"},
        "m": {"op": "merge.regmean", "models": {"base": {"gram": "g"}, "other": {"gram": "h"}}, "alpha": 1},
    }
    outputs = {n: {"model": n, "to": f"./{n}"} for n in steps}
    bench.recipe(steps, outputs=outputs, output=None).run(RunOptions(device="cpu", threads=2))
    made, g, h = (load_file(bench.folder / n / "model.safetensors") for n in ("m", "g", "h"))
    for name in (UP, DOWN):
        a, b, merged = (t[name].double() for t in (base.tensors, other, made))

        def loss(w, name=name, a=a, b=b):
            return sum(float(((w - m) @ gram[name].double() * (w - m)).sum()) for m, gram in ((a, g), (b, h)))

        assert loss(merged) < loss((a + b) / 2) * 0.999
        system = g[name].double() + h[name].double()
        wanted = torch.linalg.solve(system, (a @ g[name].double() + b @ h[name].double()).T).T
        assert loss(merged) < loss(wanted) * 1.001
    assert torch.allclose(
        made["lm_head.weight"], (base.tensors["lm_head.weight"] + other["lm_head.weight"]) / 2
    )

    bench.models += ["g", "h"]  # files serve as well as steps
    again = surgery.state_dict(bench.recipe({"m": steps["m"]}))
    assert all(torch.equal(again[name], made[name]) for name in made)
