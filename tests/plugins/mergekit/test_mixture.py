"""Documents for mergekit-moe: what they mean, what is said of them, and that they run."""

from __future__ import annotations

import pytest

import surgery
from surgery.recipe.document import Position

DOCUMENT = """\
base_model: memory:zero
gate_mode: cheap_embed
dtype: bfloat16
experts:
  - source_model: memory:one
    positive_prompts: [a b]
    noise_scale: 0.5
  - source_model: org/two@v1+org/lora
    positive_prompts: [c]
    negative_prompts: [a]
"""
RANDOM = "base_model: a\ngate_mode: random\nexperts: [{source_model: b}, {source_model: c}]\n"


def test_a_document_becomes_a_step(translate):
    assert translate(DOCUMENT).data == {
        "surgery": 1,
        "models": {
            "memory-one": "memory:one",
            "two-lora": {"source": "org/two@v1", "adapter": "org/lora"},
            "memory-zero": "memory:zero",
        },
        "steps": {
            "merged": {
                "op": "stitch.moe",
                "base": "memory-zero",
                "models": ["memory-one", "two-lora"],
                "gate": "cheap_embed",
                "experts_per_token": 2,
                "experts": [
                    {"model": "memory-one", "positive_prompts": ["a b"], "noise_scale": 0.5},
                    {"model": "two-lora", "positive_prompts": ["c"], "negative_prompts": ["a"]},
                ],
            }
        },
        "output": {"model": "merged", "dtype": "bfloat16"},
    }


def test_the_base_may_be_an_expert(step):
    made = step("base_model: a\ngate_mode: random\nexperts: [{source_model: a}, {source_model: b}]")
    assert (made["base"], made["models"]) == ("a", ["b"])
    assert [each["model"] for each in made["experts"]] == ["a", "b"]


def test_defaults_are_written_out_and_marked(translate):
    assert translate(DOCUMENT).comments == {("steps", "merged", "experts_per_token"): "mergekit's default"}
    assert translate(RANDOM + "experts_per_token: 1").comments == {}


@pytest.mark.parametrize(
    ("more", "layout"),
    [
        ("", None),
        ("architecture: mixtral", "mixtral"),
        ("architecture: DeepSeek", "deepseek"),
        ("architecture: qwen3", "qwen3_moe"),
        ("architecture: qwen", "qwen3_moe"),
        ("architecture: qwen\nshared_experts: [{source_model: a}]", "qwen2_moe"),
        ("architecture: deepseek moe\nshared_experts: [{source_model: a}]", "deepseek"),
        ("shared_experts: [{source_model: a, positive_prompts: [x]}]", "qwen2_moe"),
    ],
)
def test_an_architecture_is_the_beginning_of_a_name(step, more, layout):
    assert step(RANDOM + more).get("layout") == layout


def test_a_shared_expert_is_scaled(step):
    made = step(RANDOM + "architecture: deepseek\nshared_experts: [{source_model: a, residual_scale: 0.1}]")
    assert made["shared_expert"] == {"model": "a", "residual_scale": 0.1}


@pytest.mark.parametrize(
    ("written", "gate"),
    [("hidden", "hidden"), ("hidden_last", "hidden"), ("hidden_avg", "hidden_avg")],
)
def test_hidden_is_the_last_token_unless_the_mean_is_meant(step, written, gate):
    assert step(RANDOM.replace("random", written))["gate"] == gate


def test_without_a_gate_mode_it_is_hidden_and_marked(translate):
    made = translate(RANDOM.replace("gate_mode: random\n", ""))
    assert made.data["steps"]["merged"]["gate"] == "hidden"
    assert made.comments[("steps", "merged", "gate")] == "mergekit's default"
    assert made.report[0] == (
        "Hidden states are float32 and without padding; mergekit's are bfloat16, and its means count padding."
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            RANDOM.replace("random", "randm"),
            "m.yaml:2:12: gate_mode: unknown gate mode, got `randm`; did you mean `random`?",
        ),
        (
            RANDOM + "architecture: mixtrel",
            "m.yaml:4:15: architecture: unknown architecture, got `mixtrel`; did you mean `Mixtral`?",
        ),
        (
            RANDOM + "shared_experts: [{source_model: a}]",
            "m.yaml:4:17: shared_experts: mergekit makes of a shared expert without prompts what the models allow; "
            "write `architecture: deepseek` or `architecture: qwen`",
        ),
        (
            RANDOM + "architecture: deepseek\nshared_experts: [{source_model: a}, {source_model: b}]",
            "m.yaml:5:17: shared_experts: at most one shared expert, got 2; keep one",
        ),
        (
            RANDOM + "gate_modes: random",
            "m.yaml:4:1: gate_modes: unknown key `gate_modes`; did you mean `gate_mode` or `base_model`?",
        ),
        (
            RANDOM.replace("{source_model: c}", "{source_model: c, prompts: [x]}"),
            "m.yaml:3:48: experts[1].prompts: unknown key `prompts`; did you mean `positive_prompts` or "
            "`negative_prompts`?",
        ),
        (
            RANDOM + "---\nmerge_method: linear\nmodels: []",
            "m.yaml:1:1: a document for mergekit-moe and others in one file; give each a file of its own",
        ),
    ],
)
def test_what_is_wrong_has_its_line(wrong, text, line):
    assert wrong(text) == [line]


def test_it_is_said_what_differs(translate):
    assert translate(DOCUMENT.replace("    noise_scale: 0.5\n", "")).report == (
        "A sliding window of Mistral is kept, where mergekit turns it off.",
    )
    assert translate(RANDOM + "architecture: deepseek").report == (
        "Random routers and noise are other numbers than mergekit's; ours depend on the seed alone.",
        "A model with a sliding window is refused, where mergekit turns it off.",
    )


def test_places_lead_back_to_what_was_written(translate):
    places = translate(DOCUMENT).places
    assert places["steps", "merged", "gate"] == Position(2, 12)
    assert places["steps", "merged", "experts", 1] == Position(8, 5)


def test_a_document_runs(values):
    del values  # registers the models
    text = RANDOM.replace("model: ", "model: memory:").replace(":a", ":zero").replace(":b", ":one")
    text = text.replace(":c", ":two")
    made = surgery.state_dict(surgery.loads(text))
    block = "model.layers.3.block_sparse_moe."
    assert made["model.layers.3.self_attn.q_proj.weight"].unique().tolist() == [0]
    assert [made[f"{block}experts.{e}.w2.weight"].unique().tolist() for e in (0, 1)] == [[1], [2]]
    assert made[f"{block}gate.weight"].shape == (2, 16)


def test_what_the_step_refuses_is_told_with_the_documents_line(values):
    from surgery.errors import PlanError

    del values
    text = "base_model: memory:zero\ngate_mode: random\nexperts: [{source_model: memory:one}]"
    with pytest.raises(PlanError) as error:
        surgery.state_dict(surgery.loads(text))
    assert str(error.value) == (
        "<recipe>:3:10: steps.merged: experts_per_token: 1 to 1, the number of experts, got 2"
    )
