"""Which modules engines are told to leave alone, and what no engine loads."""

from __future__ import annotations

import pytest

from surgery import PlanError
from surgery.ops import Made, Signature
from surgery.tensors import Role, TensorInfo, TensorSpec
from surgery_quant._describe import describe
from surgery_quant.int4 import Int4

NAME = "encoder.layer.0.mlp.up.weight"
SPEC = TensorSpec(NAME, (8, 8), "F32")
CHANGED = {NAME: Signature(NAME, (SPEC,), None, (), Role("mlp.up", 0), 64)}


def made(config, tied=None, **kept):
    infos = {
        f"{name}.weight": TensorInfo(TensorSpec(f"{name}.weight", (8, 8), "F32"), Role(kind))
        for name, kind in kept.items()
    }
    return Made(config, "", CHANGED, infos, tied or {})


def ignored(*args, **kept):
    return describe(made(*args, **kept), Int4()).config["quantization_config"]["ignore"]


def test_kept_matrices_are_ignored_but_not_embeddings():
    assert ignored({}, proj="other", words="embed", places="embed.position", patches="embed.patch") == [
        "lm_head",
        "patches",
        "proj",
    ]


def test_a_tied_head_is_ignored_under_its_own_name():
    tied = {"cls.predictions.decoder.weight": "words.weight"}
    assert ignored({}, tied, words="embed") == ["cls.predictions.decoder", "lm_head"]


def test_in_a_model_of_parts_names_count_by_their_ends():
    config = {"text_config": {}, "vision_config": {}}
    assert ignored(config, proj="other") == ["lm_head", "proj", r"re:(?:.+\.)?proj$"]


def test_a_generation_config_makes_no_parts():
    assert ignored({"generation_config": {}}, proj="other") == ["lm_head", "proj"]


def test_weights_that_lie_the_other_way_are_refused():
    with pytest.raises(PlanError) as error:
        describe(made({"model_type": "gpt2"}), Int4())
    assert str(error.value) == (
        "weights of `gpt2` are [in, out] (Conv1D), no engine loads them quantized; "
        "quantize models whose layers are Linears"
    )
