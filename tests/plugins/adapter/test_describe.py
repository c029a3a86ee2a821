from __future__ import annotations

from typing import Any

import pytest

from surgery.errors import PlanError
from surgery.ops import Made, Signature
from surgery.tensors import Role, TensorSpec
from surgery_adapter._describe import describe
from surgery_adapter._kinds import Extract


def made(*tensors: tuple[str, tuple[int, ...], str], source: str = "./models/base", **config: Any) -> Made:
    changed = {}
    for name, shape, role in tensors:
        spec = TensorSpec(name, shape, "F32")
        layer = 0 if ".0." in name else None
        changed[name] = Signature(name, (spec,), spec, (), Role(role, layer), spec.numel)
    return Made({"architectures": ["LlamaForCausalLM"], **config}, source, changed, {})


Q = ("model.layers.0.q.weight", (8, 6), "attention.q")
BIAS = ("model.layers.0.q.bias", (8,), "attention.q")
UP = ("model.layers.0.up.weight", (2, 6), "mlp.up")
DOWN = ("model.layers.0.down.weight", (6, 8), "mlp.down")
NORM = ("model.norm.weight", (6,), "norm.final")


def test_the_config_says_what_peft_needs():
    said = describe(made(Q, DOWN), Extract(rank=4))
    assert (said.config_file, said.stem, said.sidecars) == ("adapter_config.json", "adapter_model", False)
    assert said.config == {
        "alpha_pattern": {},
        "base_model_name_or_path": "base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "rank_pattern": {},
        "target_modules": ["model.layers.0.down", "model.layers.0.q"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def test_a_matrix_of_another_rank_is_in_both_patterns():
    config = describe(made(Q, UP, DOWN), Extract(rank=4)).config
    pattern = {r"model\.layers\.0\.up": 2}
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (4, pattern, pattern)


def test_what_is_saved_whole_is_named_in_full_and_biases_go_with_their_modules():
    config = describe(made(Q, BIAS, NORM), Extract(save="rest")).config
    assert (config["modules_to_save"], config["bias"]) == (["model.norm"], "lora_only")


@pytest.mark.parametrize(
    ("source", "said", "name"),
    [
        ("org/base@v1", {}, "org/base@v1"),
        ("/home/someone/base", {}, "base"),
        ("~/base", {}, "base"),
        ("./base", {"base_model": "org/base"}, "org/base"),
    ],
)
def test_the_base_is_named_as_it_may_be_published(source, said, name):
    assert describe(made(Q, source=source), Extract(**said)).config["base_model_name_or_path"] == name


@pytest.mark.parametrize(
    ("architectures", "task"),
    [(["BertForTokenClassification"], "TOKEN_CLS"), (["LlamaModel"], None), ([], None), (None, None)],
)
def test_the_task_follows_from_the_architecture(architectures, task):
    assert describe(made(Q, architectures=architectures), Extract()).config["task_type"] == task


@pytest.mark.parametrize(
    ("tensors", "config", "said", "problem"),
    [
        ([NORM], {}, {}, "gives factors to nothing: no matrix is left; see `targets` and `where`"),
        ([Q], {"model_type": "gpt2"}, {}, "weights of `gpt2` are [in, out]; set `fan_in_fan_out: true`"),
        (
            [DOWN, BIAS],
            {},
            {"save": "rest"},
            "model.layers.0.q.bias is to be saved, its weight is left out; select both with `where:`, or neither",
        ),
        (
            [Q, ("model.embed.weight", (20, 6), "embed")],
            {"tie_word_embeddings": True},
            {"save": "rest"},
            "model.embed.weight is embedding and head in one, peft would change one of them; "
            "leave it out with `where:`",
        ),
        (
            [Q, ("q.weight", (6,), "norm.final")],
            {},
            {"save": "rest"},
            "saves the module `q`, and peft takes `model.layers.0.q` for it too; leave q out with `where:`",
        ),
    ],
)
def test_what_peft_would_not_load_is_refused(tensors, config, said, problem):
    with pytest.raises(PlanError) as caught:
        describe(made(*tensors, **config), Extract(**said))
    assert str(caught.value) == problem
