from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import surgery
from surgery import RunOptions
from surgery.plan.model import Output
from surgery.report.card import relation

CPU = RunOptions(device="cpu", threads=1)


def card(folder) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_merge_of_folders_says_so_and_names_no_hub_model(out):
    data = card(out).data.to_dict()
    assert data == {"library_name": "transformers", "tags": ["model-surgery", "merge"]}


def test_the_text_tells_parents_recipe_methods_and_numbers(out):
    text = (out / "README.md").read_text()
    assert "| `base` | base | not stated |\n| `code` | code | not stated |" in text
    assert f"```yaml\n{(out.parent / 'mix.yaml').read_text()}```" in text
    assert "* `merge.linear`: " in text
    assert "Model Soups" in text or "arXiv" in text
    assert "| tensors | 3 |" in text
    assert "| size | 192 B (F32) |" in text
    assert str(out.parent) not in text


def test_models_of_the_hub_are_named_with_their_commit(shop, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = shop / "hub" / "models--org--name" / "snapshots" / commit
    shutil.copytree(shop / "base", cache)
    text = (shop / "mix.yaml").read_text().replace("base: ./base", f"base: {cache}")
    (shop / "mix.yaml").write_text(text)
    surgery.load("mix.yaml").run(CPU)
    made = card(shop / "out")
    assert made.data.base_model == ["org/name"]
    assert made.data.to_dict()["base_model_relation"] == "merge"
    assert f"| `base` | `org/name@{commit}` |" in made.text


def test_a_licence_that_all_parents_have_is_the_outputs(shop):
    for name in ("base", "code"):
        (shop / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    surgery.load("mix.yaml").run(CPU)
    assert card(shop / "out").data.license == "apache-2.0"


def test_licences_that_differ_are_told_and_none_is_claimed(shop):
    (shop / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    (shop / "code" / "README.md").write_text("---\nlicense: other\nlicense_name: own_1\n---\n")
    surgery.load("mix.yaml").run(CPU)
    made = card(shop / "out")
    assert made.data.license is None
    assert "The parents' licences differ (mit, own\\_1): whoever uses this model" in made.text


def test_a_parent_that_states_nothing_is_told(shop):
    (shop / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    surgery.load("mix.yaml").run(CPU)
    assert "Not every parent states its licence" in card(shop / "out").text


def test_a_recipe_with_a_fence_cannot_end_the_block(shop):
    recipe = (shop / "mix.yaml").read_text() + "# ```\n# <script>\n"
    (shop / "mix.yaml").write_text(recipe)
    surgery.load("mix.yaml").run(CPU)
    assert f"````yaml\n{recipe}````" in card(shop / "out").text


@pytest.mark.parametrize(
    ("config", "said", "parents", "expected"),
    [
        ({}, None, ["a", "b"], "merge"),
        ({}, None, ["a"], "finetune"),
        ({"quantization_config": {}}, None, ["a", "b"], "quantized"),
        ({}, "adapter", ["a", "b"], "adapter"),
        ({"quantization_config": {}}, "finetune", ["a"], "finetune"),
    ],
)
def test_the_relation_is_what_the_op_says_or_what_config_and_parents_tell(config, said, parents, expected):
    output = Output("o", "m", None, (), config, {}, 1, relation=said)
    assert relation(output, parents) == expected


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            "{op: adapter.extract, base: base, model: code, rank: 1}",
            {"library_name": "peft", "tags": ["model-surgery", "adapter"]},
        ),
        ("{op: delta.bits, base: base, model: code}", {"tags": ["model-surgery", "adapter"]}),
    ],
)
def test_what_needs_its_base_is_no_merge(shop, step, said):
    text = (shop / "mix.yaml").read_text().replace("{op: merge.linear, models: {base: 0.5, code: 0.5}}", step)
    (shop / "mix.yaml").write_text(text)
    surgery.load("mix.yaml").run(CPU)
    assert card(shop / "out").data.to_dict() == said


def test_an_adapter_that_is_scaled_or_read_is_one_still(shop):
    lora = "{op: adapter.extract, base: base, model: code, rank: 1}"
    text = (shop / "mix.yaml").read_text().replace("{op: merge.linear, models: {base: 0.5, code: 0.5}}", lora)
    (shop / "mix.yaml").write_text(text)
    surgery.load("mix.yaml").run(CPU)
    scaled = "surgery: 1\nmodels: {a: ./out, b: ./out}\nsteps:\n  s: {op: adapter.merge, models: [a, b]}\n"
    for output in ("s", "a"):
        (shop / "again.yaml").write_text(f"{scaled}output: {{model: {output}, to: ./{output}}}\n")
        surgery.load("again.yaml").run(CPU)
        assert card(shop / output).data.to_dict() == {
            "library_name": "peft",
            "tags": ["model-surgery", "adapter"],
        }


def test_the_front_matter_is_plain_yaml(out):
    matter = (out / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(matter)["tags"] == ["model-surgery", "merge"]
