"""Stacks of layers one at a time: the other one stays, config.json says what there is, transformers loads it."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import surgery
from surgery import RunOptions
from surgery.errors import PlanError
from surgery.ops import Take
from surgery.tensors import TensorSpec
from surgery.testing import run_layout, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.drop import drop
from surgery_stitch.interleave import interleave
from surgery_stitch.layers import layers
from surgery_stitch.repeat import repeat

GENERIC = ARCHITECTURES[-1]
T5 = {"model_type": "t5", "is_encoder_decoder": True, "num_layers": 2, "num_decoder_layers": 3}
BIAS = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
Q = "{}.block.{}.layer.0.SelfAttention.q.weight"
NORM = "{}.final_layer_norm.weight"


def t5(name, changes=None, encoder=2, decoder=3):
    """Names of a T5 model, one matrix a layer."""
    names = ["shared.weight"]
    for stack, count in (("encoder", encoder), ("decoder", decoder)):
        names += [Q.format(stack, i) for i in range(count)] + [BIAS.format(stack), NORM.format(stack)]
    specs = {one: TensorSpec(one, (4,) if "norm" in one else (4, 4), "F32") for one in names}
    return view(
        name, specs, T5 | {"num_layers": encoder, "num_decoder_layers": decoder} | (changes or {}), GENERIC
    )


def test_the_other_stack_and_the_embeddings_stay():
    a = t5("a")
    layout = run_layout(drop, {"layers": 1, "stack": "decoder"}, [a])
    kept = {name: Take("a", name) for name in a.tensors if not name.startswith("decoder.block.")}
    moved = {Q.format("decoder", i): Take("a", Q.format("decoder", old)) for i, old in enumerate((0, 2))}
    assert layout.tensors == kept | moved | {BIAS.format("decoder"): Take("a", BIAS.format("decoder"))}
    assert layout.config == {**T5, "num_decoder_layers": 2}


def test_what_all_layers_share_stays_in_the_first_place():
    layout = run_layout(layers, {"layers": ["a[1]", "a[0]", "a[0]"], "stack": "encoder"}, [t5("a")])
    assert layout.config == {**T5, "num_layers": 3}
    assert [name for name in layout.tensors if "relative" in name and "encoder" in name] == [
        BIAS.format("encoder")
    ]
    assert [layout.tensors[Q.format("encoder", i)].name for i in range(3)] == [
        Q.format("encoder", i) for i in (1, 0, 0)
    ]


def test_only_the_final_norm_of_the_stack_comes_from_the_head():
    layout = run_layout(layers, {"layers": ["a[0]", "b[1]"], "stack": "encoder"}, [t5("a"), t5("b")])
    others = {name: take.model for name, take in layout.tensors.items() if "encoder.block" not in name}
    assert others.pop(NORM.format("encoder")) == "b"
    assert set(others.values()) == {"a"}


def test_stretches_occur_again_and_models_take_turns():
    again = run_layout(repeat, {"layers": "0:2", "stack": "decoder"}, [t5("a")])
    assert again.config["num_decoder_layers"] == 5
    turns = run_layout(interleave, {"stack": "decoder"}, [t5("a"), t5("b")])
    assert [turns.tensors[Q.format("decoder", i)].model for i in range(3)] == ["a", "b", "a"]
    assert turns.config == T5


def test_barts_two_numbers_of_encoder_layers_stay_equal():
    names = [f"model.{stack}.layers.{i}.fc1.weight" for stack in ("encoder", "decoder") for i in range(2)]
    config = {"encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "is_encoder_decoder": True}
    model = view("a", {name: TensorSpec(name, (2, 2), "F32") for name in names}, config, GENERIC)
    made = run_layout(drop, {"layers": 0, "stack": "encoder"}, [model]).config
    assert made == {**config, "encoder_layers": 1, "num_hidden_layers": 1}
    assert run_layout(drop, {"layers": 0, "stack": "decoder"}, [model]).config == {
        **config,
        "decoder_layers": 1,
    }


def test_the_halves_of_clip_have_configs_of_their_own():
    names = [f"{half}_model.encoder.layers.{i}.fc1.weight" for half in ("text", "vision") for i in range(2)]
    config = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}}
    model = view("a", {name: TensorSpec(name, (2, 2), "F32") for name in names}, config, GENERIC)
    made = run_layout(drop, {"layers": 0, "stack": "vision_model"}, [model]).config
    assert made == {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 1}}


@pytest.mark.parametrize(
    ("stack", "model", "message"),
    [
        (
            "tower",
            t5("a"),
            "`a` has no stack with `tower` in the path, its stacks are `decoder.block` and `encoder.block`; "
            "write one word of one path",
        ),
        (
            "block",
            t5("a"),
            "`a` has 2 stacks with `block` in the path, its stacks are `decoder.block` and `encoder.block`; "
            "write one word of one path",
        ),
        (
            "decoder",
            t5("a", {"num_decoder_layers": None}),
            "config.json of `a` does not say how many layers `decoder` has, in decoder_layers or num_decoder_layers; "
            "add it",
        ),
        (
            "encoder",
            t5("a", {"num_layers": 4}),
            "config.json of `a` says 4 layers, its tensors have 2; mend it",
        ),
    ],
)
def test_what_names_no_stack_is_refused(stack, model, message):
    with pytest.raises(PlanError) as error:
        run_layout(drop, {"layers": 0, "stack": stack}, [model])
    assert str(error.value) == message


def test_stacks_whose_layers_differ_in_their_settings_are_not_mixed():
    with pytest.raises(PlanError, match="differ at num_heads: 4 and 8"):
        run_layout(
            layers,
            {"layers": ["a[0]", "b[0]"], "stack": "encoder"},
            [t5("a", {"num_heads": 4}), t5("b", {"num_heads": 8})],
        )


def test_transformers_loads_a_deeper_decoder_and_computes_as_it_is_told(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32, d_model=16, d_ff=32, d_kv=4, num_heads=4, num_layers=2, num_decoder_layers=2
    )
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "a")
    text = """
surgery: 1
models: {a: ./a}
steps: {m: {op: stitch.layers, models: [a], layers: ["a[0:2]", "a[1]"], stack: decoder}}
output: {model: m, to: ./out}
"""
    surgery.loads(text, folder=tmp_path).run(RunOptions(device="cpu", threads=1))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_decoder_layers"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, info = T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    model.decoder.block.append(model.decoder.block[1])
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        wanted = model(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits
        found = made.eval()(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits
    assert torch.equal(wanted, found)
