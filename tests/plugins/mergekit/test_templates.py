"""Chat templates of documents: written out, by name, by vote."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from surgery.cli.main import cli
from surgery.testing import save_tiny

LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: x/a}, {model: x/b}]\n"
TEXT = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_that_is_written_out_is_given_to_the_donors_tokenizer(translate):
    data = translate(f'{LINEAR}chat_template: "{TEXT}"').data
    assert data["output"] == {"model": "merged-chat"}
    assert data["steps"]["merged-chat"] == {
        "op": "stitch.chat_template",
        "models": ["merged", "a"],
        "template": TEXT,
        "files_of": "a",
    }


def test_with_a_vocabulary_of_its_own_the_result_is_given_the_template(translate):
    data = translate(f'{LINEAR}tokenizer_source: union\nchat_template: "{TEXT}"').data
    assert data["output"] == {"model": "merged-chat"}
    assert data["steps"]["merged-chat"]["models"] == ["merged"]


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_formats_have_their_names(translate, name):
    assert translate(f"{LINEAR}chat_template: {name}").data["steps"]["merged-chat"]["template"] == name


def test_what_is_not_mergekits_is_said(translate):
    said = "`chat_template: llama3` is Meta's format; mergekit's has a line break behind each `<|eot_id|>`."
    assert translate(f"{LINEAR}chat_template: llama3").report == (said,)
    assert translate(f"{LINEAR}chat_template: chatml").report == ()


def test_no_model_is_called_what_means_something_else(translate):
    text = "merge_method: passthrough\nmodels: [{model: x/auto}]\nchat_template: auto"
    step = translate(text).data["steps"]["merged-chat"]
    assert (step["models"], step["template"]) == (["merged", "auto-2"], "auto")


def test_all_models_vote_once_the_base_first(translate):
    step = translate(f"{LINEAR}base_model: x/b\nchat_template: auto").data["steps"]["merged-chat"]
    assert (step["models"], step["files_of"]) == (["merged", "b", "a"], "b")


def test_a_model_whose_tokens_alone_are_taken_has_no_vote(translate):
    steps = translate(f"{LINEAR}tokenizer_source: x/other\nchat_template: auto").data["steps"]
    assert steps["merged-chat"]["models"] == ["merged", "a", "b"]


def test_layers_of_one_model_have_one_vote(translate):
    text = """
merge_method: passthrough
slices:
  - sources: [{model: x/a, layer_range: [0, 2]}]
  - sources: [{model: x/b, layer_range: [0, 2]}]
  - sources: [{model: x/a, layer_range: [1, 2]}]
chat_template: auto
"""
    assert translate(text).data["steps"]["merged-chat"]["models"] == ["merged", "a", "b"]


@pytest.mark.parametrize("name", ["alpaca", "exaone", "mistral"])
def test_templates_that_only_mergekit_has_are_passed_over(warned, name):
    assert warned(f"{LINEAR}chat_template: {name}") == [
        f"m.yaml:4:16: chat_template: mergekit's template `{name}` is not here, and passed over: "
        "the tokenizer's own is kept; write a template, or `auto`"
    ]


def test_layers_may_begin_with_those_of_another_model_than_the_donor(translate):
    text = """
merge_method: passthrough
base_model: x/b
slices:
  - sources: [{model: x/a, layer_range: [0, 2]}]
  - sources: [{model: x/b, layer_range: [0, 2]}]
chat_template: auto
"""
    step = translate(text).data["steps"]["merged-chat"]
    assert (step["models"], step["files_of"]) == (["merged", "b", "a"], "b")


def test_what_is_no_template_is_refused(wrong):
    assert wrong(LINEAR + "chat_template: short") == [
        "m.yaml:4:16: chat_template: must be a Jinja template of at least 20 characters, got `short`"
    ]


def test_the_template_of_what_is_not_written_is_passed_over(warned):
    first = f'name: first\n{LINEAR}chat_template: "{TEXT}"\n'
    second = "---\nmerge_method: passthrough\nmodels: [{model: first}]\n"
    assert warned(first + second) == [
        "m.yaml:5:16: chat_template: passed over, for the result of `first` is not written; "
        "give it to a document that is"
    ]


def test_the_plurality_wins_and_white_space_around_it_is_none_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, template in (
        ("base", "one {{ x }}"),
        ("a", "two {{ x }}\n"),
        ("b", " two {{ x }}"),
        ("c", None),
    ):
        save_tiny(tmp_path / name, layers=1)
        settings = {"tokenizer_class": "X"} | ({"chat_template": template} if template else {})
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "kit.yaml").write_text("""
merge_method: task_arithmetic
base_model: base
models: [{model: a}, {model: b}, {model: c}]
parameters: {weight: 0.3}
chat_template: auto
""")
    done = CliRunner().invoke(cli, ["run", "kit.yaml", "--out", "out"])
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert made == {"tokenizer_class": "X", "chat_template": "two {{ x }}"}
