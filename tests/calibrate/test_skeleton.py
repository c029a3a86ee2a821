"""A model without weights: which tensor goes where, and which models are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surgery import PlanError
from surgery.calibrate.names import Place
from surgery.calibrate.skeleton import OUTSIDE, Skeleton

CPU = torch.device("cpu")


def test_nothing_but_buffers_is_there_until_a_block_is_filled(models):
    model = models("llama")
    skeleton = Skeleton(model.known)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())
    assert not any(buffer.is_meta for buffer in skeleton.model.buffers())
    targets = skeleton.targets(1)
    assert len(targets) == 9
    for target in targets:
        skeleton.fill(target, model.tensors, CPU)
    assert {name for name, p in skeleton.model.named_parameters() if not p.is_meta} == set(targets)
    skeleton.empty(targets)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())


def test_parts_are_blocks_and_the_rest(models):
    skeleton = Skeleton(models("llama").known)
    assert (skeleton.prefix, len(skeleton.blocks)) == ("model.layers", 3)
    assert skeleton.targets(OUTSIDE) == ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]


def test_a_tied_head_is_filled_with_the_embeddings(models):
    model = models("tied")
    skeleton = Skeleton(model.known)
    assert "lm_head.weight" not in model.tensors
    skeleton.fill("model.embed_tokens.weight", model.tensors, CPU)
    assert not skeleton.model.lm_head.weight.is_meta


def test_experts_are_fused_as_transformers_does(models):
    model = models("mixtral")
    skeleton = Skeleton(model.known)
    target = "model.layers.1.mlp.experts.gate_up_proj"
    skeleton.fill(target, model.tensors, CPU)
    assert torch.equal(skeleton.parameter(target), model.whole.get_parameter(target))
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    assert skeleton.place(name) == Place(target, 2)
    gate = "model.layers.1.block_sparse_moe.gate.weight"
    assert skeleton.place(gate) == Place("model.layers.1.mlp.gate.weight")


def test_a_base_models_names_are_known_without_its_prefix(models):
    model = models("gpt2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in model.tensors.items()}
    skeleton = Skeleton(SimpleNamespace(step="x", config=model.config, nodes=bare))
    assert skeleton.places.place("h.1.mlp.c_fc.bias") == Place("transformer.h.1.mlp.c_fc.bias")
    assert len(skeleton.targets(1)) == 12


def test_weights_that_are_no_linears_are_refused(models):
    skeleton = Skeleton(models("gpt2").known)
    with pytest.raises(PlanError) as error:
        skeleton.place("transformer.h.0.attn.c_attn.weight")
    assert str(error.value) == (
        "step x: transformer.h.0.attn.c_attn.weight belongs to Conv1D and is no Linear's weight; "
        "leave it out with `where:`"
    )
    with pytest.raises(PlanError, match=r"wte.weight belongs to Embedding and is no Linear's weight"):
        skeleton.place("transformer.wte.weight")
    with pytest.raises(PlanError, match=r"ln_f.bias belongs to LayerNorm and is no Linear's weight"):
        skeleton.place("transformer.ln_f.bias")


def test_what_the_model_lacks_or_has_no_place_for_is_named(models):
    model = models("llama")
    lacking = {name: tensor for name, tensor in model.tensors.items() if "layers.1.mlp" not in name}
    with pytest.raises(PlanError) as error:
        Skeleton(SimpleNamespace(step="x", config=model.config, nodes=lacking))
    assert str(error.value) == (
        "step x: LlamaForCausalLM needs model.layers.1.mlp.gate_proj.weight and 2 more, which the step's input lacks; "
        "it cannot be calibrated block by block"
    )
    skeleton = Skeleton(SimpleNamespace(step="x", config=model.config, nodes={**model.tensors, "extra": 0}))
    with pytest.raises(PlanError, match="step x: LlamaForCausalLM has no parameter for extra;"):
        skeleton.place("extra")


def test_a_tensor_of_another_shape_than_the_config_says_is_refused(models):
    model = models("llama")
    skeleton = Skeleton(model.known)
    with pytest.raises(PlanError, match=r"model.norm.weight is \(3,\), it expects \(32,\);"):
        skeleton.fill("model.norm.weight", {"model.norm.weight": torch.ones(3)}, CPU)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "t5"},
            "transformers cannot build a causal language model of type `t5`: Unrecognized",
        ),
        ({"model_type": "nothing"}, "transformers cannot build a causal language model of type `nothing`: "),
    ],
)
def test_what_transformers_cannot_build_is_refused(config, said):
    with pytest.raises(PlanError) as error:
        Skeleton(SimpleNamespace(step="x", config=config, nodes={}))
    assert str(error.value).startswith(f"step x: {said}")
    assert str(error.value).endswith("; calibrated ops need one")


def test_a_model_with_two_lists_of_blocks_is_refused():
    skeleton = Skeleton.__new__(Skeleton)
    skeleton.step, skeleton.model = (
        "x",
        torch.nn.ModuleDict(
            {name: torch.nn.ModuleList([torch.nn.Linear(2, 2)]) for name in ("encoder", "decoder")}
        ),
    )
    with pytest.raises(PlanError, match=r"ModuleDict has 2 lists of blocks \(encoder, decoder\), not one;"):
        skeleton._find_blocks()
