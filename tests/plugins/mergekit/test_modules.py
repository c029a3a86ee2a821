"""Models of several modules: which tensors are a module's, and what each is merged of."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.recipe.select import compile_selector
from surgery.tensors import Role, TensorInfo, TensorSpec
from surgery_mergekit._modules import PLACES

LANGUAGE = "model.language_model.layers.0.mlp.up_proj.weight"
NAMES = {
    LANGUAGE: "text_decoder",
    "language_model.lm_head.weight": "text_decoder",
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": "vision_tower",
    "model.visual.blocks.0.attn.proj.weight": "vision_tower",
    "vision_model.class_embedding": "vision_tower",
    "multi_modal_projector.linear_1.weight": "multi_modal_projector",
    "visual.merger.ln_q.weight": "multi_modal_projector",
    "model.visual.deepstack_merger_list.0.norm.bias": "multi_modal_projector",
}
PAIRS = {
    "encoder.block.0.layer.0.layer_norm.weight": "encoder",
    "model.decoder.layers.0.fc1.weight": "decoder",
    "shared.weight": "shared",
    "lm_head.weight": "shared",
}


@pytest.mark.parametrize(
    ("name", "module", "others"),
    [(name, own, set(NAMES.values())) for name, own in NAMES.items()]
    + [(name, own, set(PAIRS.values())) for name, own in PAIRS.items()],
)
def test_a_tensor_belongs_to_one_module(name, module, others):
    info = TensorInfo(TensorSpec(name, (1,), "F32"), Role(), 0.0)
    assert [one for one in others if compile_selector(PLACES[one]).matches(info)] == [module]


def test_each_module_is_merged_by_a_step_of_its_own(translate):
    data = translate("""
merge_method: linear
base_model: x/b
modules:
  text_decoder: {models: [{model: x/a}, {model: x/b}], parameters: {weight: 2}}
  vision_tower: {models: [{model: x/c}, {model: x/b}]}
parameters: {weight: 1}
""")
    steps = data.data["steps"]
    assert list(steps) == ["merged-text_decoder", "merged-vision_tower", "merged"]
    assert steps["merged-text_decoder"]["models"] == {"b": 2, "a": 2}
    assert steps["merged-vision_tower"]["models"] == {"b": 1, "c": 1}
    text, tower = PLACES["text_decoder"], PLACES["vision_tower"]
    assert steps["merged"]["op"] == "merge.assemble"
    assert steps["merged"]["models"] == {
        "b": {"weight": {text: 0, tower: 0, "default": 1}},
        "merged-text_decoder": {"weight": {text: 1, "default": 0}},
        "merged-vision_tower": {"weight": {tower: 1, "default": 0}},
    }
    said = "Tensors of modules that are not named are those of `x/b`; mergekit does not write them."
    assert data.report == (said,)
    assert data.data["output"] == {"model": "merged", "tokenizer": "b"}


def test_what_is_written_comes_from_its_module():
    tower, projector = "vision_tower.layers.0.weight", "multi_modal_projector.weight"
    for name, value in (("m0", 0.0), ("m1", 1.0), ("m4", 4.0)):
        tensors = {key: torch.full((2, 2), value) for key in (LANGUAGE, tower, projector)}
        register_memory(name, MemoryCheckpoint(tensors, {"model_type": "llava"}))
    made = surgery.state_dict(
        surgery.loads("""
merge_method: task_arithmetic
base_model: "memory:m1"
modules:
  text_decoder: {models: [{model: "memory:m4"}], parameters: {weight: 0.5}}
  vision_tower: {models: [{model: "memory:m4"}, {model: "memory:m0"}], parameters: {weight: 1}}
""")
    )
    assert {name: made[name][0, 0].item() for name in made} == {LANGUAGE: 2.5, tower: 3.0, projector: 1.0}


def test_a_module_that_the_models_lack_is_an_error():
    register_memory("plain", MemoryCheckpoint({LANGUAGE: torch.zeros(2, 2)}, {}))
    text = "modules: {shared: {models: [{model: 'memory:plain'}], parameters: {weight: 1}}}"
    with pytest.raises(surgery.SurgeryError, match="shared"):
        surgery.loads(f"merge_method: linear\n{text}").resolve()


LINEAR = "merge_method: linear\nparameters: {weight: 1}\n"


@pytest.mark.parametrize(
    ("modules", "line"),
    [
        (
            "{shard: {models: [{model: a}]}}",
            "m.yaml:3:11: modules.shard: unknown module `shard`; did you mean `shared`?",
        ),
        (
            "{decoder: {slices: []}}",
            "m.yaml:3:21: modules.decoder.slices: slices of one module are not read; "
            "write `slices` without `modules`, or `stitch.layers`",
        ),
        ("{decoder: {}}", "m.yaml:3:11: modules.decoder: must have `models`, got none"),
        (
            "{vision_tower: {models: [{model: a, parameters: {weight: [0, 1]}}]}}",
            "m.yaml:3:11: modules.vision_tower: a gradient in `vision_tower`, which has no layers here; "
            "write one number, and filters for its parts",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(wrong, modules, line):
    assert wrong(f"{LINEAR}modules: {modules}") == [line]
