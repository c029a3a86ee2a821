"""What a checkpoint is told to be: layers of each stack, tied heads, the name of its files."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.host import Host
from surgery.plan.virtual import from_checkpoint

HEADED = {"architectures": ["XForCausalLM"], "tie_word_embeddings": True}


def model(config, *names):
    tensors = {name: np.zeros((4, 2), np.float32) for name in names}
    return from_checkpoint("m", MemoryCheckpoint(tensors, config), Host().architectures())


def test_layers_are_those_of_the_deepest_stack():
    made = model({"model_type": "t5"}, "encoder.block.0.x", "decoder.block.0.x", "decoder.block.1.x")
    assert made.layers == 2
    assert [info.depth for info in made.tensors.values()] == [1, 0, 1]


def test_a_file_without_config_has_layers_too():
    names = [f"trunk.{layer}.{part}.weight" for layer in range(3) for part in "abcd"]
    assert model({}, *names).layers == 3


@pytest.mark.parametrize(
    ("model_type", "embedding", "tied"),
    [
        ("llama", "model.embed_tokens.weight", {"lm_head.weight": "model.embed_tokens.weight"}),
        (
            "gemma3",
            "language_model.model.embed_tokens.weight",
            {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"},
        ),
        ("t5", "shared.weight", {"lm_head.weight": "shared.weight"}),
        (
            "bloom",
            "transformer.word_embeddings.weight",
            {"lm_head.weight": "transformer.word_embeddings.weight"},
        ),
        (
            "whisper",
            "model.decoder.embed_tokens.weight",
            {"proj_out.weight": "model.decoder.embed_tokens.weight"},
        ),
    ],
)
def test_a_tied_head_shares_its_models_embedding(model_type, embedding, tied):
    assert model({"model_type": model_type, **HEADED}, embedding).tied == tied


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"architectures": ["XModel"]}, ["shared.weight"]),  # an encoder has no head
        ({"tie_word_embeddings": False}, ["shared.weight"]),
        ({}, ["shared.weight", "lm_head.weight"]),
        ({}, ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),  # which of them, nothing says
    ],
)
def test_nothing_is_tied_without_reason(config, names):
    assert model({"model_type": "x", **HEADED, **config}, *names).tied == {}


def test_what_diffusers_wrote_keeps_the_name_it_looks_for():
    assert model({"_diffusers_version": "0.30.0"}, "conv_in.weight").stem == "diffusion_pytorch_model"
    assert model({}, "conv_in.weight").stem == "model"
