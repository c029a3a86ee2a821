from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import CheckpointError, PlanError
from surgery_hf.peft_config import read_config


def config(folder: Path, **said: Any) -> Any:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **said})
    )
    return read_config(folder).scales


def refused(folder: Path, **said: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        config(folder, **said)
    return [str(finding).removeprefix(f"{folder}/adapter_config.json: ") for finding in caught.value.findings]


def test_the_scale_is_alpha_over_the_rank_or_over_its_root(tmp_path):
    assert config(tmp_path).scale_of("q") == 2
    assert config(tmp_path, use_rslora=True).scale_of("q") == 4
    assert config(tmp_path, use_rslora=True, r=8).scale_of("q") == 8 / math.sqrt(8)


def test_patterns_are_about_the_end_of_a_modules_name_and_the_first_wins(tmp_path):
    found = config(
        tmp_path, rank_pattern={"q_proj": 2, "l.0.q_proj": 16}, alpha_pattern={r"l\.\d+\.v_proj": 1}
    )
    ranks = [found.rank_of(module) for module in ("m.l.0.q_proj", "q_proj", "m.xq_proj", "q_proj.up")]
    assert ranks == [2, 2, 4, 4]
    assert [found.scale_of(module) for module in ("m.l.7.v_proj", "m.l.x.v_proj")] == [0.25, 2]
    assert found.scale_of("q_proj") == 4


def test_a_rank_pattern_alone_changes_the_scale_too(tmp_path):
    assert config(tmp_path, rank_pattern={"q": 8}).scale_of("q") == 1


@pytest.mark.parametrize("kind", ["LN_TUNING", "FOURIERFT", 3, ["LORA"], None])
def test_other_kinds_of_adapters_are_refused_by_name(tmp_path, kind):
    folded = "`LORA`, `ADALORA`, `IA3`, `LOHA`, `LOKR`, `VERA`, `OFT`, `BOFT`, `HRA`, `SHIRA`"
    assert refused(tmp_path, peft_type=kind) == [
        f"adapters of peft_type `{kind}` are not folded, {folded} are; merge it with peft"
    ]


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING"])
def test_prompts_are_said_to_be_no_change_of_weights(tmp_path, kind):
    assert refused(tmp_path, peft_type=kind) == [
        f"`{kind}` adds to what the model reads, which no weight can do; keep it as an adapter"
    ]


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        ({"peft_type": "LOHA", "alpha": 0, "r": 1}, ["`alpha` must be a number above 0, got 0"]),
        (
            {"peft_type": "OFT", "fan_in_fan_out": True},
            ["`fan_in_fan_out`: rotations of weights that are [in, out]"],
        ),
        (
            {"peft_type": "IA3", "target_parameters": ["e"]},
            ["`target_parameters`: fused experts are not folded"],
        ),
        ({"peft_type": "VERA", "use_dora": True}, ["`use_dora`: is not known here"]),
    ],
)
def test_settings_of_other_kinds_are_known_or_refused(tmp_path, said, problems):
    found = refused(tmp_path, **{"r": None, "lora_alpha": None, **said})
    assert [line[: len(told)] for line, told in zip(found, problems, strict=True)] == problems


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "new", 1, [1]]
)
def test_starts_that_change_the_base_are_refused(tmp_path, start):
    assert refused(tmp_path, init_lora_weights=start) == [
        f"`init_lora_weights`: `{start}` changes the base before training, so that this is no change of the base as "
        "published; save it with peft's `path_initial_model_for_weight_conversion` first"
    ]


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_alone_are_accepted(tmp_path, start):
    assert config(tmp_path, init_lora_weights=start).rank == 4


def test_everything_that_cannot_be_folded_is_told_at_once(tmp_path):
    said = {
        "trainable_token_indices": [3],
        "use_qalora": True,
        "surprise": {"a": 1},
        "layer_replication": [[0, 2]],
    }
    assert refused(tmp_path, **said, init_lora_weights="pissa", lora_alpha=0)[:4] == [
        "`trainable_token_indices`: single rows of the embedding are not folded; merge it with peft",
        "`use_qalora`: pools the inputs, which is not folded; merge it with peft",
        "`surprise`: is not known here, it may change what the weights mean; merge it with peft",
        "`layer_replication`: renumbers the layers; stack them in a step of its own and train on the result",
    ]
    assert len(refused(tmp_path, **said, init_lora_weights="pissa", lora_alpha=0)) == 6


def test_settings_that_are_off_are_accepted_known_or_not(tmp_path):
    assert config(tmp_path, use_qalora=False, arrow_config=None, surprise={}, other=False, rank_pattern=None)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"r": 0}, "`r` must be a whole number above 0, got 0"),
        ({"r": True}, "`r` must be a whole number above 0, got True"),
        ({"lora_alpha": "8"}, "`lora_alpha` must be a number above 0, got '8'"),
        ({"lora_alpha": -1}, "`lora_alpha` must be a number above 0, got -1"),
        ({"rank_pattern": {"q": 1.5}}, "`rank_pattern.q` must be a whole number above 0, got 1.5"),
        ({"alpha_pattern": [1]}, "`alpha_pattern` must map module names to numbers, got [1]"),
        (
            {"alpha_pattern": {"(a+)+": 1}},
            "`alpha_pattern.(a+)+` is no regular expression that can be used: "
            "a repetition of what leaves a choice takes too long; unnest it",
        ),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path, said, problem):
    assert refused(tmp_path, **said) == [problem]


def test_a_config_that_is_no_json_is_damaged(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(b" " * 10_000_001)
    with pytest.raises(
        CheckpointError, match="has 10000001 bytes, at most 10000000 are read; it is no config"
    ):
        read_config(tmp_path)


@pytest.mark.parametrize("kind", ["IA3", "VERA", "HRA", "ADALORA"])
def test_kinds_without_patterns_ask_for_no_ranks(tmp_path, kind):
    assert config(tmp_path, peft_type=kind, lora_alpha=None, r=None).rank == 1


def test_ranks_that_are_no_numbers_are_refused_where_they_count(tmp_path):
    assert refused(tmp_path, peft_type="LOKR", r="x", alpha=1, lora_alpha=None) == [
        "`r` must be a whole number above 0, got 'x'"
    ]
