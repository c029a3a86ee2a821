"""stitch.moe: which tensor comes from which model, routers of prompts, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

import surgery
from surgery import PlanError
from tests.plugins.stitch.dense import CPU, assert_same, classes, load, model, run, save
from tests.plugins.stitch.vocabularies import EMBED, config, tensors

SMALL = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_lora_rank": 4,
    "q_lora_rank": None,
    "moe_intermediate_size": 24,
    "num_experts_per_tok": 2,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
}
LAYER = "model.layers.1."
MOE = LAYER + "block_sparse_moe."
ABC = "op: stitch.moe, base: a, models: [b, c]"
PROMPTS = (
    ", gate: cheap_embed, experts: [{model: b, positive_prompts: [a b, c]}, "
    "{model: c, positive_prompts: [d], negative_prompts: [e f]}]"
)


@pytest.fixture
def folder(tmp_path):
    """Three models of the same sizes."""
    for seed, name in enumerate("abc"):
        save(tmp_path / name, seed=seed)
    return tmp_path


def make(folder, step, names="a b c"):
    return run(folder, step, names)


def refused(folder, step, names="a b c", error=PlanError):
    with pytest.raises(error) as caught:
        make(folder, step, names)
    return str(caught.value).partition("steps.m")[2].removeprefix(": ")


def test_attention_comes_from_the_base_and_each_expert_from_its_model(folder):
    out = make(folder, f"{ABC}, experts: [c, a, b], gate: zero")
    made, (a, b, c) = tensors(out), (tensors(folder / name) for name in "abc")
    for name in (EMBED, LAYER + "self_attn.q_proj.weight", LAYER + "input_layernorm.weight"):
        assert torch.equal(made[name], a[name])
    for e, of in enumerate((c, a, b)):
        for new, old in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            assert torch.equal(made[f"{MOE}experts.{e}.{new}.weight"], of[f"{LAYER}mlp.{old}.weight"])
    assert torch.equal(made[f"{MOE}gate.weight"], torch.zeros(3, 16))
    assert config(out)["architectures"] == ["MixtralForCausalLM"]
    assert (out / "tokenizer.json").read_bytes() == (folder / "a" / "tokenizer.json").read_bytes()


def test_without_experts_they_are_the_steps_models(folder):
    made = tensors(make(folder, f"{ABC}, gate: random"))
    assert [n for n in made if n.startswith(f"{MOE}experts") and n.endswith("w1.weight")] == [
        f"{MOE}experts.{e}.w1.weight" for e in (0, 1)
    ]


def test_equal_experts_are_a_dense_model(folder):
    """Attention of one model and feed-forward parts of another, whatever the router says."""
    shutil.copytree(folder / "b", folder / "d")
    made = load(make(folder, "op: stitch.moe, base: a, models: [b, d], gate: random", "a b d"))
    dense, donor = model("llama", 0), model("llama", 1)
    for layer, other in zip(dense.model.layers, donor.model.layers, strict=True):
        layer.mlp = other.mlp
    assert_same(made, dense)


def test_an_expert_that_is_always_chosen_alone_is_its_model(folder):
    """Zeros tie, and ties go to the first expert."""
    made = load(make(folder, f"{ABC}, experts: [a, b, c], gate: zero, experts_per_token: 1"))
    assert_same(made, model("llama", 0))


def test_routers_are_the_directions_of_the_prompts_embeddings(folder):
    made, rows = tensors(make(folder, ABC + PROMPTS)), tensors(folder / "a")[EMBED].double()

    def unit(row):
        return row / row.norm()

    first = unit(rows[[0, 1, 2, 0, 3]].mean(0))  # <s> a b <s> c
    second = unit(unit(rows[[0, 4]].mean(0)) - unit(rows[[0, 5, 6]].mean(0)))
    for layer in (0, 1):
        router = made[f"model.layers.{layer}.block_sparse_moe.gate.weight"].double()
        assert torch.allclose(router, torch.stack([first, second]), rtol=1e-6, atol=1e-7)
        assert torch.allclose(router.norm(dim=1), torch.ones(2).double(), atol=1e-6)


@torch.no_grad()
def states(dense, ids, layer, mean):
    """What enters a layer of transformers' model: of the last token, or the mean, of one prompt."""
    found = dense(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double()
    return found.mean(0) if mean else found[-1]


@pytest.mark.parametrize("gate", ["hidden", "hidden_avg"])
def test_routers_are_the_directions_of_the_hidden_states_before_their_layer(folder, gate):
    made = tensors(make(folder, ABC + PROMPTS.replace("cheap_embed", gate)))
    dense, mean = model("llama", 0), gate == "hidden_avg"

    def unit(row):
        return row / row.norm()

    for layer in (0, 1):
        ab, c, d, ef = (states(dense, ids, layer, mean) for ids in ([0, 1, 2], [0, 3], [0, 4], [0, 5, 6]))
        expected = torch.stack([unit((ab + c) / 2), unit(d - ef)])
        router = made[f"model.layers.{layer}.block_sparse_moe.gate.weight"].double()
        assert torch.allclose(router, expected, rtol=1e-5, atol=1e-6)


def test_the_router_of_a_shared_expert_looks_at_its_own_prompts(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / name, "qwen2", seed)
    more = ", shared_expert: {model: a, positive_prompts: [g a], negative_prompts: [b]}"
    made = tensors(make(tmp_path, ABC + PROMPTS.replace("cheap_embed", "hidden") + more))
    dense = model("qwen2", 0)
    row = states(dense, [0, 7, 1], 1, mean=False) - states(dense, [0, 2], 1, mean=False)
    shared = made[f"{LAYER}mlp.shared_expert_gate.weight"]
    assert torch.allclose(shared[0].double(), row / row.norm(), rtol=1e-5, atol=1e-6)
    assert made[f"{LAYER}mlp.gate.weight"].shape == (2, 16)


def test_a_second_run_writes_the_same_routers(folder):
    step = ABC + PROMPTS.replace("cheap_embed", "hidden")
    first = (make(folder, step) / "model.safetensors").read_bytes()
    assert (make(folder, step) / "model.safetensors").read_bytes() == first


def test_random_routers_depend_on_the_recipes_seed_alone(folder):
    def gates(seed):
        text = f"surgery: 1\nseed: {seed}\nmodels: {{a: ./a, b: ./b, c: ./c}}\nsteps: {{m: {{{ABC}, gate: random}}}}\n"
        made = surgery.state_dict(surgery.loads(text + "output: {model: m}", folder=folder))
        return [made[f"model.layers.{layer}.block_sparse_moe.gate.weight"] for layer in (0, 1)]

    one, again, other = gates(1), gates(1), gates(2)
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


def test_prompts_are_read_without_torch(folder):
    text = f"surgery: 1\nmodels: {{a: ./a, b: ./b, c: ./c}}\nsteps: {{m: {{{ABC}{PROMPTS}}}}}\noutput: {{model: m}}\n"
    (folder / "moe.yaml").write_text(text)
    code = "import sys, surgery; surgery.load('moe.yaml').resolve(write=False); print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_swapped_prompts_swap_the_rows(folder):
    one = "{model: b, positive_prompts: [a b]}, {model: c, positive_prompts: [c]}"
    two = "{model: b, positive_prompts: [c]}, {model: c, positive_prompts: [a b]}"
    first, second = (
        tensors(make(folder, f"{ABC}, gate: cheap_embed, experts: [{experts}]"))[f"{MOE}gate.weight"]
        for experts in (one, two)
    )
    assert torch.equal(first, second.flip(0))


def test_noise_and_scale_are_an_experts_own(folder):
    step = f"{ABC}, gate: zero, experts: [{{model: b, residual_scale: 0.5}}, {{model: c, noise_scale: 0.1}}]"
    made, b, c = tensors(make(folder, step)), tensors(folder / "b"), tensors(folder / "c")
    assert torch.equal(made[f"{MOE}experts.0.w2.weight"], b[f"{LAYER}mlp.down_proj.weight"] / 2)
    assert torch.equal(made[f"{MOE}experts.0.w1.weight"], b[f"{LAYER}mlp.gate_proj.weight"])
    for new, old in (("w1", "gate_proj"), ("w2", "down_proj")):
        change = made[f"{MOE}experts.1.{new}.weight"] - c[f"{LAYER}mlp.{old}.weight"]
        assert 0.08 < change.std() < 0.12


def test_a_shared_expert_has_a_router_of_its_own(folder):
    shared = ", layout: qwen2_moe, shared_expert: {model: a, positive_prompts: [g]}"
    out = make(folder, ABC + PROMPTS + shared)
    assert load(out).config.model_type == "qwen2_moe"
    made, a = tensors(out), tensors(folder / "a")
    up = "mlp.up_proj.weight"
    assert torch.equal(made[f"{LAYER}mlp.shared_expert.up_proj.weight"], a[LAYER + up])
    gate = made[f"{LAYER}mlp.shared_expert_gate.weight"]
    expected = a[EMBED][[0, 7]].mean(0)  # <s> g
    assert gate.shape == (1, 16)
    assert torch.allclose(gate[0], expected / expected.norm(), rtol=1e-6, atol=1e-7)
    assert torch.equal(made[f"{LAYER}self_attn.k_proj.bias"], torch.zeros(8))


@pytest.mark.parametrize("shared", [0, 1])
def test_deepseek_has_the_names_that_its_successor_has_in_transformers(folder, shared):
    out = make(folder, f"{ABC}, layout: deepseek, gate: random{', shared_expert: a' * shared}")
    v2 = classes().AutoModelForCausalLM.from_config(classes().DeepseekV2Config(**SMALL))
    v2.save_pretrained(folder / "v2")
    theirs, ours = (
        {name: tensor.shape for name, tensor in tensors(path).items() if ".mlp." in name}
        for path in (folder / "v2", out)
    )
    assert ours == {name: shape for name, shape in theirs.items() if shared or ".shared_experts." not in name}
    said = config(out)
    assert (said["n_routed_experts"], said["n_shared_experts"]) == (2, shared or None)
    assert (said["moe_intermediate_size"], said["norm_topk_prob"]) == (24, True)


def test_a_later_step_finds_experts_by_number_and_kind(folder):
    text = """
surgery: 1
models: {a: ./a, b: ./b, c: ./c}
steps:
  m: {op: stitch.moe, base: a, models: [b, c], layout: qwen2_moe, shared_expert: a, gate: random}
  twice:
    op: merge.linear
    models: {m: {weight: {"experts[1].down": 2, experts.shared.up: 3, "layers[0].experts.routed": 5, default: 1}}}
    normalize: false
outputs: {m: {model: m, to: ./m}, twice: {model: twice, to: ./twice}}
"""
    surgery.loads(text, folder=folder).run(CPU)
    before, after = tensors(folder / "m"), tensors(folder / "twice")
    factors = {
        name: round(float((after[name] / t).nanmean()), 3) for name, t in before.items() if ".mlp." in name
    }
    found = {
        name.removeprefix("model."): factor
        for name, factor in factors.items()
        if factor != 1 and "bias" not in name
    }
    assert found == {
        "layers.0.mlp.experts.0.gate_proj.weight": 5,
        "layers.0.mlp.experts.0.up_proj.weight": 5,
        "layers.0.mlp.experts.0.down_proj.weight": 5,
        "layers.0.mlp.experts.1.gate_proj.weight": 5,
        "layers.0.mlp.experts.1.up_proj.weight": 5,
        "layers.0.mlp.experts.1.down_proj.weight": 2,
        "layers.1.mlp.experts.1.down_proj.weight": 2,
        "layers.0.mlp.shared_expert.up_proj.weight": 3,
        "layers.1.mlp.shared_expert.up_proj.weight": 3,
    }


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (
            f"{ABC}, gate: random, experts_per_token: 3",
            "experts_per_token: 1 to 2, the number of experts, got 3",
        ),
        (
            f"{ABC}, gate: random, experts: [b, b]",
            "`c` is one of the step's models and no expert; add it to `experts` or remove it",
        ),
        (
            "op: stitch.moe, base: a, models: [b], gate: random, experts: [b, b]",
            "every expert is `b`; give different models, or make copies of one with `stitch.upcycle`",
        ),
        (
            f"{ABC}, gate: random, experts: [b, cc]",
            "`cc` is none of the step's models; did you mean `c`?",
        ),
        (
            f"{ABC}, gate: random, shared_expert: a",
            "`layout: mixtral` has no shared expert, got one; remove `shared_expert`",
        ),
        (
            f"{ABC}, gate: random, layout: qwen2_moe",
            "`layout: qwen2_moe` needs a shared expert, got none; add `shared_expert`",
        ),
        (
            f"{ABC}, gate: cheap_embed, experts: [b, {{model: c, positive_prompts: [a]}}]",
            "experts[0]: `b` has no `positive_prompts`, which `gate: cheap_embed` needs; add some",
        ),
        (
            f"{ABC}, gate: hidden, experts: [b, {{model: c, positive_prompts: [a]}}]",
            "experts[0]: `b` has no `positive_prompts`, which `gate: hidden` needs; add some",
        ),
        (
            f"{ABC}, gate: hidden, experts: [{{model: b, positive_prompts: [{' '.join('ab' * 32)}]}}, "
            "{model: c, positive_prompts: [a]}]",
            "a prompt has 65 tokens, more than the 64 that `a` reads; shorten it",
        ),
        (
            f"{ABC}, gate: cheap_embed, experts: [{{model: b, positive_prompts: [a]}}, "
            "{model: c, positive_prompts: [a, b], negative_prompts: [b, a]}]",
            "experts[1]: positive and negative prompts are the same; change one of them",
        ),
        (
            f"{ABC}, gate: cheap_embed, experts: [{{model: b, positive_prompts: [a]}}, "
            "{model: c, positive_prompts: [a]}]",
            "all experts have the same prompts, so that no router can tell them apart; vary them",
        ),
    ],
)
def test_what_cannot_be_is_refused(folder, step, text):
    assert refused(folder, step) == text


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (
            "llama",
            {"intermediate_size": 32},
            "`a` and `d` differ at intermediate_size: 24 and 32; stitch models whose layers have the same settings",
        ),
        (
            "llama",
            {"num_hidden_layers": 3},
            "the models have different numbers of layers: `a` 2, `d` 3, `b` 2; give models of one size",
        ),
        (
            "mistral",
            {},
            "`a` and `d` differ at model_type: 'llama' and 'mistral'",
        ),
    ],
)
def test_experts_of_another_kind_are_refused(folder, kind, settings, text):
    save(folder / "d", kind, **settings)
    found = refused(folder, "op: stitch.moe, base: a, models: [d, b], gate: random", "a b d")
    assert text in found.splitlines()[0]


def test_tensors_that_a_mixture_has_no_place_for_are_named(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / name, seed=seed, attention_bias=True)
    assert refused(tmp_path, f"{ABC}, gate: random") == (
        "`a` has model.layers.0.self_attn.k_proj.bias, which `layout: mixtral` has no place for; "
        "give causal language models that their class in transformers describes"
    )
