"""Hidden states of prompts: those of transformers' own run, whatever the workers, lengths and masks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import surgery
from surgery import OpError, PlanError, RunOptions

PROMPTS = [[1, 5, 9, 3], [1, 700], [1, 8, 2, 6], [1, *range(20, 40)]]

LOOK = """
import surgery
from surgery import Call, Layout, Need, Reading, Split, Stack, Take


class Prompts(surgery.Params):
    \"\"\"Parameters of see.states.\"\"\"

    prompts: list[list[int]]
    \"\"\"Token ids of each.\"\"\"
    layers: list[int]
    \"\"\"Before which layers.\"\"\"


def _op(need):
    @surgery.op("see.row", split=Split.TENSOR, models=1, needs=[need])
    def row(x, p):
        \"\"\"The states of all prompts.\"\"\"
        return x.statistics[need].to(x.models[0])

    return row


@surgery.layout_op("see.states", params=Prompts, models=1)
def states(models, p):
    \"\"\"A tensor of the last states and one of the means, before each layer.\"\"\"
    (model,) = models.values()
    embed = next(name for name, info in model.tensors.items() if info.role.kind == "embed")
    like = Stack([Take(model.name, embed, (0, 1))], [0] * len(p.prompts))
    prompts = tuple(map(tuple, p.prompts))
    made = {}
    for layer in p.layers:
        reading = Reading(model.name, layer, prompts)
        for need in (Need.LAST, Need.MEAN):
            made[f"{need}.{layer}"] = Call(_op(need), [like], None, reading)
    return Layout(made, {})
"""


@pytest.fixture
def see(models, tmp_path):
    """Return the states of a model on prompts, and the model."""
    (tmp_path / "see.py").write_text(LOOK)

    def go(kind="llama", layers=(0, 1, 2), prompts=PROMPTS, model=None, extra=""):
        base = model or models(kind)
        text = (
            f"surgery: 1\nmodels: {{base: {base.folder}}}\n"
            f"steps: {{{extra} x: {{op: see.states, model: {'y' if extra else 'base'}, prompts: {prompts}, "
            f"layers: {list(layers)}}}}}\noutput: {{model: x, to: ./out}}\n"
        )
        return surgery.loads(text, folder=tmp_path, plugins=[tmp_path / "see.py"])

    return go


@torch.no_grad()
def expected(whole, prompts=PROMPTS):
    """Last states and means before each layer, [layers, prompts, hidden], of a prompt at a time."""
    runs = [
        whole(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        for ids in prompts
    ]
    layers = range(len(runs[0]) - 1)
    last = [torch.stack([run[layer][0, -1] for run in runs]) for layer in layers]
    mean = [torch.stack([run[layer][0].double().mean(0).float() for run in runs]) for layer in layers]
    return last, mean


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2"])
def test_they_are_those_of_a_plain_run(see, models, kind):
    """The longest prompt is longer than the sliding window of mistral and gemma2."""
    made = dict(surgery.state_dict(see(kind)))
    last, mean = expected(models(kind).whole)
    for layer in range(3):
        torch.testing.assert_close(made[f"last.{layer}"], last[layer], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(made[f"mean.{layer}"], mean[layer], rtol=1e-5, atol=1e-5)


def test_a_prompt_of_one_token_is_its_own_mean(see):
    made = surgery.state_dict(see(prompts=[[7], [1, 2]]))
    for layer in range(3):
        assert torch.equal(made[f"last.{layer}"][0], made[f"mean.{layer}"][0])
        assert not torch.equal(made[f"last.{layer}"][1], made[f"mean.{layer}"][1])


def test_before_the_first_layer_they_are_embeddings(see, models):
    made = surgery.state_dict(see(layers=[0]))
    rows = models("llama").tensors["model.embed_tokens.weight"]
    assert torch.equal(made["last.0"], rows[[ids[-1] for ids in PROMPTS]])


def test_other_prompts_and_layers_do_not_change_a_state(see):
    alone, all_ = surgery.state_dict(see(layers=[2], prompts=PROMPTS[1:2])), surgery.state_dict(see())
    assert torch.equal(alone["last.2"][0], all_["last.2"][1])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_do_not_depend_on_workers(see, tmp_path, threads):
    see().run(RunOptions(device="cpu", threads=1), out=tmp_path / "one")
    see().run(RunOptions(device="cpu", threads=threads), out=tmp_path / "other")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_model_that_reads_is_what_the_plan_computes(see, models):
    half = "y: {op: merge.passthrough, model: base, scale: 0.5, where: embed},"
    made = surgery.state_dict(see(extra=half, layers=[0, 1]))
    plain = surgery.state_dict(see(layers=[0, 1]))
    assert torch.equal(made["last.0"], plain["last.0"] / 2)
    assert not torch.allclose(made["last.1"], plain["last.1"] / 2)


def test_the_model_is_run_no_further_than_somebody_looks(see, monkeypatch):
    from surgery.calibrate.blocks import Blocks

    ran, run = [], Blocks.run
    monkeypatch.setattr(
        Blocks, "run", lambda self, index, hidden: ran.append(index) or run(self, index, hidden)
    )
    dict(surgery.state_dict(see(layers=[1])))
    assert ran == [0] * len(PROMPTS)


def test_of_several_processes_the_others_are_told_what_the_first_finds(see, monkeypatch):
    from surgery.calibrate import runner
    from surgery.plan.calibration import calibrations_of

    class Second(SimpleNamespace):
        """The second of two processes, which the first tells what it found."""

        def gather(self, mine):
            assert mine is None
            return ["what the first finds", None]

    plan = see().resolve(write=False).plan
    (run,) = calibrations_of(tensor.node for tensor in plan.outputs[0].tensors)
    monkeypatch.setattr(runner, "Reader", None)
    site = SimpleNamespace(here=Second(rank=1, size=2))
    assert runner.Calibrator(plan)(run, {}, site) == "what the first finds"


def test_states_that_are_not_finite_are_refused(see, models, tmp_path):
    from safetensors.torch import save_file

    from tests.calibrate.conftest import save

    model = save("llama", tmp_path / "bad")
    tensors = dict(model.tensors)
    tensors["model.layers.0.mlp.down_proj.weight"][:] = float("nan")
    save_file(tensors, model.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OpError) as error:
        dict(surgery.state_dict(see(model=model)))
    assert str(error.value) == "step x: what enters layer 1 on the prompts is not finite; check the model"


def test_a_model_that_does_not_run_block_by_block_is_refused(see):
    with pytest.raises(PlanError, match=r"^step x: Rwkv.*it cannot be calibrated block by block$"):
        dict(surgery.state_dict(see("rwkv", layers=[0])))


def test_the_plan_says_what_it_takes(see):
    (cost,) = see().resolve(write=False).order(RunOptions(device="cpu")).calibrations
    # 31 tokens in float32; before 3 layers, for 4 prompts, two rows of float64
    assert (cost.samples, cost.length, cost.disk) == (4, 21, 0)
    assert cost.statistics == 32 * (4 * 31 + 8 * 2 * 4 * 3)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"layers": [3]}, "last.3: looks before layer 3 of `base`, which has 3; count layers from 0"),
        ({"prompts": [[1], []]}, "`base` is to read prompts, one of which has no tokens; write some text"),
        ({"prompts": []}, "`base` is to read prompts, one of which has no tokens; write some text"),
        (
            {"prompts": [[1] * 65]},
            "a prompt has 65 tokens, more than the 64 that `base` reads; shorten it",
        ),
    ],
)
def test_what_cannot_be_read_is_found_while_planning(see, settings, what):
    with pytest.raises(PlanError) as error:
        see(**settings).resolve(write=False)
    assert error.value.findings[0].what == what
