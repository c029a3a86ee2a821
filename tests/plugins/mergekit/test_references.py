"""How documents name models."""

from __future__ import annotations

import pytest

LINEAR = "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {}}}]"


@pytest.fixture
def model(translate):
    def only(written):
        ((name, entry),) = translate(LINEAR.format(written)).data["models"].items()
        return name, entry

    return only


@pytest.mark.parametrize(
    ("written", "name", "entry"),
    [
        ("org/name", "name", "org/name"),
        ("org/name@v1", "name", "org/name@v1"),
        ("org/name@v1+org/lora@v2", "name-lora", {"source": "org/name@v1", "adapter": "org/lora@v2"}),
        ("{model: org/name}", "name", "org/name"),
        ("{model: {path: org/name, revision: v1}}", "name", "org/name@v1"),
        ("{model: org/a, lora: {path: org/b}}", "a-b", {"source": "org/a", "adapter": "org/b"}),
        ("org/7B é", "m7B", "org/7B é"),
        ("hub:org/name", "name", "hub:org/name"),
    ],
)
def test_a_reference_becomes_a_source_with_a_name(model, written, name, entry):
    assert model(written) == (name, entry)


def test_what_lies_on_this_machine_is_not_split(model, tmp_path):
    (tmp_path / "c++" / "m").mkdir(parents=True)
    assert model("c++/m") == ("m", "./c++/m")
    assert model("{model: {path: c++/m}}") == ("m", "./c++/m")


def test_a_path_from_the_current_folder_is_written_from_the_recipes(model, tmp_path, monkeypatch):
    (tmp_path / "here" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert model("base") == ("base", "./here/base")


def test_a_folder_has_no_revision(translate, tmp_path):
    (tmp_path / "base").mkdir()
    made = translate(LINEAR.format("base@v1"))
    assert made.data["models"] == {"base": "./base"}
    assert [str(finding) for finding in made.warnings] == [
        "m.yaml:3:18: models[0].model: `base` is a folder, which has no revisions; `@v1` is passed over"
    ]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("a+b+c", "must be `model` or `model+lora`, got `a+b+c`; write `{model: ..., lora: ...}`"),
        ("a@b@c", "must be `model` or `model@revision`, got `a@b@c`"),
        ("3", "must be a path, a Hub id or a mapping, got `3`"),
        ("{model: {path: 3}}", "must be a path or a Hub id, got `3`"),
        ("{modle: a}", "unknown key `modle`; did you mean `model`?"),
    ],
)
def test_what_names_no_model_is_refused(wrong, written, what):
    assert wrong(LINEAR.format(written))[0].endswith(what)


def test_models_of_one_name_are_told_apart(translate):
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a/m}, {model: b/m}, {model: a/m}]"
    assert translate(text).data["models"] == {"m": "a/m", "m-2": "b/m", "m-3": "a/m"}


def test_another_architecture_is_not_needed(warned):
    assert warned(LINEAR.format("{model: a, override_architecture: LlamaForCausalLM}")) == [
        "m.yaml:3:29: models[0].model.override_architecture: `override_architecture` is not needed here: "
        "architectures only annotate; remove it"
    ]
