"""From a recipe to a plan: outputs, destinations, tokenizers, what plugins may rewrite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.errors import CheckpointError, PlanError, PluginError, RecipeError
from surgery.host import Host
from surgery.ops import Layout, Take, layout_op
from surgery.plan.nodes import Rows, Source
from surgery.plan.resolve import resolve
from surgery.recipe.load import parse_recipe
from surgery.tensors import TensorSpec
from tests.plan.conftest import LAYERS, LLAMA, TOYS

UP0 = "model.layers.0.mlp.up_proj.weight"
MIX = "  m: {op: toy.mix, models: [a, b]}"


def recipe(memory, output: str, *, folder: Path = Path(), steps: str = MIX):
    sources = ", ".join(f"{name}: '{memory(LAYERS)}'" for name in "ab")
    return parse_recipe(f"surgery: 1\nmodels: {{{sources}}}\nsteps:\n{steps}\n{output}\n", folder=folder)


def test_the_output_dtype_is_that_of_floating_tensors_only(plan, memory):
    tensors = {"w": np.zeros((2, 2), np.float32), "ids": np.zeros(3, np.int64)}
    register_memory("mixed", MemoryCheckpoint(tensors, LLAMA))
    made = plan("  m: {op: toy.mix, models: [a]}", output="{model: m, dtype: bfloat16}", a="memory:mixed")
    assert {t.spec.name: t.spec.dtype for t in made.outputs[0].tensors} == {"w": "BF16", "ids": "I64"}


def test_without_a_dtype_the_result_holds_all_inputs_exactly(plan, memory):
    half = memory(LAYERS, np.float16)
    assert {t.spec.dtype for t in plan(MIX, a=half, b=half).outputs[0].tensors} == {"F16"}
    assert {t.spec.dtype for t in plan(MIX, a=half).outputs[0].tensors} == {"F32"}


def test_a_model_may_be_rounded_when_it_is_read(plan, memory):
    odd = {"w": np.full((2, 2), 1.003, np.float32)}
    register_memory("odd", MemoryCheckpoint(odd, LLAMA))
    text = "surgery: 1\nmodels: {a: {source: 'memory:odd', dtype: bfloat16}}\noutput: {model: a}\n"
    made = resolve(parse_recipe(text), Host(), write=False)
    assert made.checkpoints["a"].tensors["w"].dtype == "BF16"
    assert made.outputs[0].tensors[0].spec.dtype == "BF16"


@pytest.mark.parametrize(("models", "first"), [("[b, a]", "b"), ("{b: 1, a: 2}", "b"), ("[a, b]", "a")])
def test_the_first_model_as_written_gives_the_config(plan, memory, models, first):
    named = {name: memory(LAYERS, config={**LLAMA, "max_position_embeddings": ord(name)}) for name in "ab"}
    made = plan(f"  m: {{op: toy.mix, models: {models}}}", **named)
    assert made.outputs[0].config["max_position_embeddings"] == ord(first)


def test_several_outputs_share_nodes(plan):
    made = plan(MIX, output="{x: {model: m}, y: {model: m, dtype: float16}}")
    first, second = made.outputs
    assert (first.name, second.name) == ("x", "y")
    assert first.tensors[0].node is second.tensors[0].node


def test_models_that_nothing_needs_are_not_opened(plan):
    made = plan(MIX, c="./nowhere")
    assert set(made.checkpoints) == {"a", "b"}


def test_a_model_that_cannot_be_opened_is_told_with_its_line(plan):
    with pytest.raises(PlanError, match=r"<recipe>:2:\d+: models\.a: .*nowhere") as error:
        plan(MIX, a="./nowhere", b="./nowhere2")
    assert len(error.value.findings) == 2


def test_all_findings_come_at_once(plan):
    steps = "  m: {op: toy.mix, models: {a: {wieght: 1}, b: {weight: x}}}\n  n: {op: toy.mux, models: [a]}"
    with pytest.raises(RecipeError) as error:
        plan(steps)
    first, second, third = (str(finding) for finding in error.value.findings)
    assert first == "<recipe>:4:33: steps.m.models.a.wieght: unknown key; did you mean `weight`?"
    assert second == "<recipe>:4:57: steps.m.models.b.weight: must be a number, got `x`"
    assert third.startswith("<recipe>:5:11: steps.n.op: no op is called `toy.mux`")


def test_an_output_needs_a_place(memory, host):
    with pytest.raises(PlanError) as error:
        resolve(recipe(memory, "output: {model: m}"), host)
    assert str(error.value).endswith("output: says not where to write; add `to: FOLDER` or pass --out FOLDER")


def test_paths_are_relative_to_the_recipe(memory, host, tmp_path):
    made = resolve(recipe(memory, "output: {model: m, to: ./x}", folder=tmp_path), host)
    assert made.outputs[0].folder == tmp_path / "x"


def test_a_finished_output_is_not_overwritten_unasked(memory, host, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.safetensors").touch()
    written = recipe(memory, "output: {model: m, to: ./x}", folder=tmp_path)
    with pytest.raises(PlanError) as error:
        resolve(written, host)
    assert str(error.value) == (
        f"<recipe>:5:24: output.to: {tmp_path / 'x'} exists and is not empty; choose another folder or pass --force"
    )
    assert resolve(written, host, force=True).outputs[0].folder == tmp_path / "x"


def test_a_source_is_never_overwritten_even_with_force(host, tmp_path):
    from safetensors.numpy import save_file

    (tmp_path / "a").mkdir()
    save_file({"w": np.zeros((2, 2), np.float32)}, tmp_path / "a" / "model.safetensors")
    text = (
        "surgery: 1\nmodels: {a: ./a}\nsteps:\n  m: {op: toy.mix, models: [a]}\noutput: {model: m, to: ./a}"
    )
    with pytest.raises(PlanError, match="holds a model that this recipe reads; write somewhere else"):
        resolve(parse_recipe(text, folder=tmp_path), host, force=True)


def test_a_source_of_links_is_never_overwritten_either(host, tmp_path):
    from safetensors.numpy import save_file

    (tmp_path / "cache").mkdir()
    (tmp_path / "a").mkdir()
    save_file({"w": np.zeros((2, 2), np.float32)}, tmp_path / "cache" / "blob")
    (tmp_path / "a" / "model.safetensors").symlink_to(tmp_path / "cache" / "blob")
    text = (
        "surgery: 1\nmodels: {a: ./a}\nsteps:\n  m: {op: toy.mix, models: [a]}\noutput: {model: m, to: ./a}"
    )
    with pytest.raises(PlanError, match="holds a model that this recipe reads; write somewhere else"):
        resolve(parse_recipe(text, folder=tmp_path), host, force=True)


@pytest.mark.parametrize("to", [".", "..", "/", "./a/.."])
def test_an_output_never_takes_the_place_of_the_recipe_or_of_what_it_lies_in(memory, host, tmp_path, to):
    written = recipe(memory, f"output: {{model: m, to: {to}}}", folder=tmp_path)
    with pytest.raises(PlanError, match="is where the recipe or you are, or above; give a folder of its own"):
        resolve(written, host, force=True)


def test_an_output_never_takes_the_place_of_the_current_folder(memory, host, tmp_path, monkeypatch):
    (tmp_path / "x" / "y").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x" / "y")
    with pytest.raises(
        PlanError, match="x is where the recipe or you are, or above; give a folder of its own"
    ):
        resolve(recipe(memory, "output: {model: m, to: ./x}", folder=tmp_path), host, force=True)


def test_an_output_in_a_file_is_found_before_work(memory, host, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(PlanError) as error:
        resolve(recipe(memory, "output: {model: m, to: ./x/y}", folder=tmp_path), host)
    assert str(error.value) == (
        f"<recipe>:5:24: output.to: {tmp_path / 'x'} is a file, nothing can be written in it; choose another folder"
    )


def test_a_full_disk_is_found_before_work(memory, host, tmp_path, monkeypatch):
    import surgery.plan.destinations as destinations

    monkeypatch.setattr(destinations.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(
        PlanError, match=r"needs 464 B in .*, 100 B are free; free space or choose another disk"
    ):
        resolve(recipe(memory, "output: {model: m, to: ./x}", folder=tmp_path), host)


def test_out_cannot_stand_for_several_outputs(memory, host, tmp_path):
    several = recipe(memory, "outputs: {x: {model: m}, y: {model: m}}")
    with pytest.raises(PlanError, match="--out names one folder, the recipe has several outputs"):
        resolve(several, host, out=tmp_path / "o")


def tokenizer(folder: Path, vocabulary: dict[str, int]) -> Path:
    file = folder / f"{len(list(folder.iterdir()))}.json"
    file.write_text(
        json.dumps({"model": {"vocab": vocabulary}, "added_tokens": [{"content": "<s>", "id": 9}]})
    )
    return file


def test_models_with_different_tokens_are_refused_unless_that_is_meant(plan, memory, tmp_path):
    a = memory(LAYERS, sidecars={"tokenizer.json": tokenizer(tmp_path, {"x": 0, "y": 1})})
    b = memory(LAYERS, sidecars={"tokenizer.json": tokenizer(tmp_path, {"x": 1, "y": 0})})
    with pytest.raises(PlanError) as error:
        plan(MIX, a=a, b=b)
    assert str(error.value) == (
        "<recipe>:4:6: steps.m: `a` and `b` have different tokenizers: 2 tokens differ, first 'x' with ids 0 and 1; "
        "give them one with `stitch.tokenizer`, or set `tokenizer: accept` in the step if that is meant"
    )
    made = plan("  m: {op: toy.mix, models: [a, b], tokenizer: accept}", a=a, b=b)
    assert any("have different tokenizers" in warning.what for warning in made.warnings)


def test_equal_vocabularies_in_different_files_are_the_same(plan, memory, tmp_path):
    a, b = (memory(LAYERS, sidecars={"tokenizer.json": tokenizer(tmp_path, {"x": 0})}) for _ in "ab")
    assert not any("tokenizers" in warning.what for warning in plan(MIX, a=a, b=b).warnings)


def test_a_broken_tokenizer_is_an_error_that_names_it(plan, memory, tmp_path):
    (tmp_path / "bad.json").write_text("[1")
    good = tokenizer(tmp_path, {"x": 0})
    a, b = (
        memory(LAYERS, sidecars={"tokenizer.json": tmp_path / "bad.json"}),
        memory(LAYERS, sidecars={"tokenizer.json": good}),
    )
    with pytest.raises(CheckpointError, match=r"bad\.json: not a tokenizer"):
        plan(MIX, a=a, b=b)


def test_the_named_tokenizer_comes_along(plan, memory, tmp_path):
    file = tokenizer(tmp_path, {"x": 0})
    made = plan(MIX, output="{model: m, tokenizer: c}", c=memory(LAYERS, sidecars={"tokenizer.json": file}))
    assert made.outputs[0].sidecars == {"tokenizer.json": file}


@layout_op("toy.halve", models=1)
def halve(models, p):
    """Keep the first half of each matrix's rows."""
    (model,) = models.values()
    takes = {
        name: Take(model.name, name, (0, info.spec.shape[0] // 2))
        for name, info in model.tensors.items()
        if len(info.spec.shape) == 2
    }
    return Layout(takes, {**model.config, "halved": True})


@layout_op("toy.wrong", models=1)
def wrong(models, p):
    """Take what is not there."""
    (model,) = models.values()
    return Layout({"w": Take(model.name, "model.norm.wieght")}, {})


@pytest.fixture(autouse=True)
def _layouts(monkeypatch):
    monkeypatch.setitem(TOYS, "toy.halve", halve)
    monkeypatch.setitem(TOYS, "toy.wrong", wrong)


def test_a_layout_renames_cuts_and_rewrites_the_config(plan):
    output = plan("  m: {op: toy.halve, model: a}").outputs[0]
    tensor = {t.spec.name: t for t in output.tensors}[UP0]
    assert tensor.spec == TensorSpec(UP0, (3, 4), "F32")
    assert isinstance(tensor.node, Rows)
    assert isinstance(tensor.node.node, Source)
    assert output.config["halved"] is True


def test_a_layout_that_takes_what_is_not_there_is_told_what_is_near(plan):
    with pytest.raises(PlanError) as error:
        plan("  m: {op: toy.wrong, model: a}")
    assert str(error.value).startswith(
        "<recipe>:4:6: steps.m: w: takes model.norm.wieght of `a`, which has no such tensor; did you mean "
        "`model.norm.weight`"
    )


def test_a_rewritten_plan_is_checked(memory, host, tmp_path):
    from surgery import hookimpl

    class Rewriter:
        @hookimpl
        def surgery_rewrite_plan(self, plan):
            tensor = plan.outputs[0].tensors[0]
            spec = TensorSpec(tensor.spec.name, (1,), "F32")
            output = replace(plan.outputs[0], tensors=(replace(tensor, spec=spec),))
            return replace(plan, outputs=(output,))

    host._registry.manager.register(Rewriter(), name="rewriter")
    host._registry.loaded["rewriter"] = type("P", (), {"__str__": lambda self: "plugin rewriter"})()
    with pytest.raises(PluginError, match=r"plugin rewriter: surgery_rewrite_plan writes .* as \(1,\)"):
        resolve(recipe(memory, "output: {model: m, to: ./x}", folder=tmp_path), host)


def test_the_graph_runs_from_models_to_outputs(plan):
    graph = plan("  s: {op: toy.scale, model: a}\n  m: {op: toy.mix, models: [s, b]}").graph()
    assert set(graph.edges) == {("a", "s"), ("s", "m"), ("b", "m"), ("m", "-> output")}
