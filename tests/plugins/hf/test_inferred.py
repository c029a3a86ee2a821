"""Roles of whole models that no table knows."""

from __future__ import annotations

import pytest

from surgery.plan.virtual import annotate
from surgery.tensors import Role, TensorSpec
from surgery_hf.architectures import ARCHITECTURES

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
GENERIC = BY_NAME["generic"]


def roles(*names, architecture=GENERIC, **shapes):
    specs = {name: TensorSpec(name, (4, 4), "F32") for name in names}
    specs |= {name: TensorSpec(name, shape, "F32") for name, shape in shapes.items()}
    return architecture.roles(specs)


T5 = ("shared.weight", "encoder.block.1.layer.0.SelfAttention.q.weight", "decoder.block.2.layer.1.x")


def test_encoder_and_decoder_are_stacks_of_their_own():
    assert list(roles(*T5).values()) == [
        Role("embed"),
        Role("attention.q", 1, stack="encoder.block"),
        Role("other", 2, stack="decoder.block"),
    ]


def test_depth_is_counted_in_each_stack():
    names = [*(f"encoder.block.{i}.x" for i in range(2)), *(f"decoder.block.{i}.x" for i in range(3))]
    infos = annotate({name: TensorSpec(name, (4,), "F32") for name in names}, GENERIC)
    assert [infos[name].depth for name in names] == [0, 1, 0, 0.5, 1]


@pytest.mark.parametrize("name", ["decoder", "generic"])
def test_a_known_tower_beside_a_language_model_has_no_layers_of_it(name):
    tower, text = "vision_tower.encoder.layers.0.mlp.fc1.weight", "model.layers.0.mlp.up_proj.weight"
    found = roles("model.embed_tokens.weight", tower, text, architecture=BY_NAME[name])
    assert found[tower] == Role()
    assert found[text] == Role("mlp.up", 0, stack="model.layers")


def test_where_no_words_are_embedded_the_tower_is_the_model():
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert roles(name)[name] == Role("mlp.up", 0, stack="vision_model.encoder.layers")


def test_a_pair_of_models_has_two_stacks():
    names = [f"{side}_model.encoder.layers.0.mlp.fc1.weight" for side in ("text", "vision")]
    found = roles(*names, architecture=BY_NAME["pair"])
    assert [role.stack for role in found.values()] == [
        "text_model.encoder.layers",
        "vision_model.encoder.layers",
    ]


def unet():
    inner = (
        "resnets.0.norm1.weight",
        "resnets.0.conv1.weight",
        "attentions.0.transformer_blocks.0.attn1.to_q.weight",
    )
    rests = (*inner, "resnets.0.time_emb_proj.weight")
    return [f"{side}_blocks.{i}.{rest}" for side in ("down", "up") for i in range(2) for rest in rests]


def test_the_blocks_of_a_unet_are_layers():
    found = roles("conv_in.weight", *unet())
    assert found["conv_in.weight"] == Role()
    assert found["down_blocks.1.resnets.0.conv1.weight"] == Role("conv", 1, stack="down_blocks")
    query = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert found[query] == Role("attention.q", 0, stack="up_blocks")


def test_layers_of_unknown_words_get_their_roles_from_shapes():
    shapes = {"a.weight": (4,), "b.weight": (16, 4), "c.weight": (4, 16), "d.weight": (4, 4)}
    found = roles(**{f"trunk.{i}.{rest}": shape for i in range(2) for rest, shape in shapes.items()})
    kinds = [found[f"trunk.1.{rest}"].kind for rest in shapes]
    assert kinds == ["norm", "mlp.up", "mlp.down", "other"]


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("down_blocks.1.resnets.0.conv1.weight", "down_blocks.5.resnets.0.conv1.weight"),
        ("trunk.3.a.weight", "trunk.5.a.weight"),
        ("encoder.layers.5.blocks.1.x", "encoder.layers.5.blocks.1.x"),
        ("conv_in.weight", "conv_in.weight"),
    ],
)
def test_a_layer_of_a_run_is_renamed_at_its_outermost_number(name, renamed):
    assert GENERIC.rename_layer(name, 5) == renamed


def test_experts_of_a_run_are_numbered():
    names = [
        f"trunk.{i}.mlp.experts.{e}.{part}_proj.weight"
        for i in (0, 1)
        for e in (0, 1)
        for part in ("up", "down")
    ]
    found = roles(*names)
    assert found["trunk.1.mlp.experts.0.down_proj.weight"] == Role("experts.down", 1, 0, "trunk")


def test_every_tensor_gets_a_role():
    names = [*T5, *unet(), "a", "0.weight", "x.0.weight", "logit_scale"]
    assert list(roles(*names)) == names
