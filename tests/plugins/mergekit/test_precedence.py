"""Which of several values holds for a tensor: numbers that a reader can check by hand.

`memory:zero`, `one`, `two` and `ten` are models of 4 layers all of whose elements are that number, so that what comes
out of a base of zeros and one model of ones is the weight.
"""

from __future__ import annotations

DELTA = "merge_method: task_arithmetic\nbase_model: memory:zero\n"
MLP, Q = "model.layers.{}.mlp.up_proj.weight", "model.layers.{}.self_attn.q_proj.weight"
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def test_a_gradient_runs_over_the_layers(values):
    made = values(DELTA + "models: [{model: memory:one, parameters: {weight: [0.25, 0.5, 1]}}]")
    assert [made[Q.format(layer)] for layer in range(4)] == [0.25, 0.41667, 0.66667, 1]
    assert made[EMBED] == 0.25


def test_the_head_is_at_the_end_of_a_gradient_or_with_the_embeddings(values):
    text = DELTA + "models: [{model: memory:one, parameters: {weight: [0.25, 1]}}]\n"
    made, compat = values(text), values(text + "compat: mergekit")
    assert (made[NORM], made[HEAD]) == (1, 1)
    assert (compat[NORM], compat[HEAD]) == (0.25, 0.25)
    assert {name for name in made if made[name] != compat[name]} == {NORM, HEAD}


def test_a_model_goes_before_the_document_and_what_no_filter_takes_falls_through(values):
    text = """
models:
  - model: memory:one
    parameters: {weight: [{filter: mlp, value: 0.25}]}
  - model: memory:ten
parameters:
  weight: [{filter: self_attn, value: 0.75}, {filter: mlp, value: 0.5}, {value: 0.125}]
"""
    made = values(DELTA + text)
    assert made[MLP.format(0)] == 0.25 + 10 * 0.5
    assert made[Q.format(0)] == 0.75 + 10 * 0.75
    assert made[NORM] == 0.125 + 10 * 0.125


def test_the_first_filter_wins_and_may_hold_a_gradient(values):
    text = "models: [{model: memory:one}]\nparameters:\n  weight:\n"
    text += "    - {filter: q_proj, value: [0, 1]}\n    - {filter: self_attn, value: 2}\n    - 3\n"
    made = values(DELTA + text.replace("- 3", "- {value: 3}"))
    assert [made[Q.format(layer)] for layer in range(4)] == [0, 0.33333, 0.66667, 1]
    assert made["model.layers.0.self_attn.k_proj.weight"] == 2
    assert made[MLP.format(0)] == 3


def test_a_module_stands_between_a_model_and_the_document(values):
    text = """
modules:
  default:
    models: [{model: memory:one, parameters: {weight: [{filter: q_proj, value: 1}]}}]
    parameters: {weight: [{filter: self_attn, value: 2}]}
parameters: {weight: 3}
"""
    made = values(DELTA + text)
    assert (made[Q.format(0)], made["model.layers.0.self_attn.k_proj.weight"], made[NORM]) == (1, 2, 3)


def test_slices_have_gradients_and_parameters_of_their_own(values):
    text = """
merge_method: linear
slices:
  - sources:
      - {model: memory:one, layer_range: [0, 2], parameters: {weight: [1, 0]}}
      - {model: memory:ten, layer_range: [2, 4], parameters: {weight: [0, 1]}}
  - sources:
      - {model: memory:one, layer_range: [1, 3]}
      - {model: memory:two, layer_range: [1, 3]}
    parameters: {weight: 2}
parameters: {normalize: false, weight: 7}
"""
    made = values(text)
    assert [made[Q.format(layer)] for layer in range(4)] == [1, 10, 6, 6]
    assert (made[EMBED], made[HEAD], made[NORM]) == (1, 6, 6)


def test_a_filter_names_layers_of_the_result_for_the_step_and_of_the_source_for_a_model(values):
    text = """
merge_method: linear
slices:
  - sources: [{model: memory:one, layer_range: [0, 2], parameters: {weight: 1}}]
  - sources:
      - model: memory:ten
        layer_range: [1, 3]
        parameters: {weight: [{filter: layers.2, value: 0.5}, {value: 1}]}
      - {model: memory:zero, layer_range: [2, 4], parameters: {weight: 1}}
parameters: {normalize: false}
"""
    made = values(text)
    assert [made[Q.format(layer)] for layer in range(4)] == [1, 1, 10, 5]


def test_slerp_of_constants_is_a_straight_line_by_layer_of_the_result(values):
    text = """
merge_method: slerp
base_model: memory:one
slices:
  - sources: [{model: memory:one, layer_range: [0, 2]}, {model: memory:two, layer_range: [0, 2]}]
  - sources: [{model: memory:one, layer_range: [2, 4]}, {model: memory:two, layer_range: [2, 4]}]
parameters: {t: [{filter: layers.3, value: 1}, {filter: layers.1.mlp, value: 0.25}, {value: 0.5}]}
"""
    made = values(text)
    assert [made[Q.format(layer)] for layer in range(4)] == [1.5, 1.5, 1.5, 2]
    assert [made[MLP.format(layer)] for layer in range(4)] == [1.5, 1.25, 1.5, 2]


def test_dtype_rounds_before_and_out_dtype_after_the_arithmetic(values):
    from tests.plugins.mergekit.conftest import constant

    constant("odd", 1.003)
    text = "merge_method: passthrough\nmodels: [{model: memory:odd, parameters: {scale: 1000}}]\n"
    assert set(values(text + "dtype: bfloat16").values()) == {1000.0}
    assert set(values(text + "out_dtype: bfloat16").values()) == {1004.0}
