"""config.json of a mixture: what is kept, what is said anew, and what would be lost."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.testing import tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch._moe_config import mixture_config
from surgery_stitch._moe_families import FAMILIES


def dense(changes=None, drop=()):
    config = {key: value for key, value in (tiny_config() | (changes or {})).items() if key not in drop}
    return view("a", tiny_specs(), config, ARCHITECTURES[0])


def made(family, changes=None, drop=()):
    return mixture_config(FAMILIES[family], dense(changes, drop), experts=4, per_token=2, shared=1)


def refused(family, changes):
    with pytest.raises(PlanError) as error:
        made(family, changes)
    return str(error.value)


def test_a_mixtral_says_what_the_llama_said():
    gone = {"mlp_bias", "attention_bias"}
    kept = {key: value for key, value in tiny_config().items() if key not in gone}
    assert made("mixtral") == {
        **kept,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }


def test_what_a_mistral_leaves_out_is_written_out():
    silent = ("num_key_value_heads", "rope_theta", "rms_norm_eps", "max_position_embeddings", "hidden_act")
    config = made("mixtral", {"model_type": "mistral"}, silent)
    assert config["num_key_value_heads"] == 8
    assert config["rope_theta"] == 10000.0
    assert config["rms_norm_eps"] == 1e-6
    assert config["max_position_embeddings"] == 131072
    assert config["sliding_window"] == 4096


def test_a_qwen_says_three_times_how_wide_an_expert_is():
    config = made("qwen2_moe")
    keys = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
    assert [config[key] for key in keys] == [32, 32, 32]
    assert (config["num_experts"], config["norm_topk_prob"], config["mlp_only_layers"]) == (4, True, [])


def test_code_of_the_dense_model_is_not_the_mixtures():
    assert "auto_map" not in made("mixtral", {"auto_map": {"AutoConfig": "own.Config"}})
    assert set(made("deepseek")["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}


@pytest.mark.parametrize(
    ("family", "changes", "text"),
    [
        (
            "deepseek",
            {"model_type": "mistral", "sliding_window": 4096},
            "`a` attends to 4096 tokens only, which `layout: deepseek` cannot; "
            "write `layout: mixtral`, or `sliding_window: null` in its config.json",
        ),
        (
            "qwen3_moe",
            {"model_type": "qwen3", "use_sliding_window": True},
            "`a` has layers with a sliding window, which `layout: qwen3_moe` cannot have; "
            "write `use_sliding_window: false` in its config.json if its texts are short",
        ),
        (
            "mixtral",
            {"quantization_config": {"bits": 4}},
            "`a` is quantized (quantization_config); make the mixture of models that are not",
        ),
    ],
)
def test_settings_that_would_be_lost_are_refused(family, changes, text):
    assert refused(family, changes) == text
