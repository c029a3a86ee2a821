"""A model with another chat template: chosen by name, by vote, by format."""

from __future__ import annotations

import json

import pytest

from surgery import PlanError
from surgery.architecture import Architecture
from surgery.ops import Take
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_layout, view
from surgery_stitch._chat import FORMATS, template_of
from surgery_stitch.chat_template import chat_template

ANY = Architecture("any", frozenset(), lambda name: Role(), lambda name, layer: name)
SETTINGS = "tokenizer_config.json"


def model(name, **files):
    made = {key.replace("__", "."): value for key, value in files.items()}
    return view(name, {"w": TensorSpec("w", (2, 2), "F32")}, {"k": 1}, ANY, files=made)


def settings(**values):
    return json.dumps(values).encode()


def plain(name, text):
    return model(name, chat_template__jinja=text.encode())


def given(*models, **params):
    return run_layout(chat_template, params, list(models))


def test_the_weights_and_the_other_files_stay():
    made = given(model("a", merges__txt=b"x"), template="{{ m }}")
    assert (made.tensors, made.config, made.donor) == ({"w": Take("a", "w")}, {"k": 1}, "a")
    assert made.files == {"merges.txt": b"x", "chat_template.jinja": b"{{ m }}"}


def test_most_of_the_models_behind_the_first_decide():
    made = given(plain("out", "A"), plain("a", "A"), plain("b", "B"), plain("c", "B"))
    assert template_of(made.files) == "B"


def test_of_equally_frequent_ones_the_first_is_taken():
    models = plain("out", "C"), plain("a", "B"), plain("b", "A"), plain("c", "A"), plain("d", "B")
    assert template_of(given(*models).files) == "B"


def test_models_without_a_template_do_not_count():
    made = given(plain("out", "A"), model("a"), model("b"), plain("c", "B"))
    assert template_of(made.files) == "B"


def test_the_tokenizer_may_be_another_models():
    made = given(plain("out", "A"), model("a", merges__txt=b"x"), plain("b", "B"), files_of="a")
    assert made.files == {"merges.txt": b"x", "chat_template.jinja": b"B"}
    assert made.tensors == {"w": Take("out", "w")}


def test_where_none_has_one_nothing_changes():
    assert given(plain("out", "A"), model("a")).files == {"chat_template.jinja": b"A"}


def test_the_template_called_default_is_the_one_of_several():
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    other = model("a", tokenizer_config__json=settings(chat_template=several))
    made = given(plain("out", "A"), other, template="a")
    assert template_of(made.files) == "D"


def test_settings_that_hold_a_template_hold_the_new_one_alone():
    own = model("out", tokenizer_config__json=settings(chat_template="A", eos="e"), chat_template__json=b"{}")
    made = given(own, template="{{ m }}").files
    assert made.keys() == {SETTINGS}
    assert json.loads(made[SETTINGS]) == {"chat_template": "{{ m }}", "eos": "e"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("b", "template: `b` has none; name another model"),
        ("chatm", "template: `chatm` is no template and none of the step's models; did you mean `chatml`?"),
    ],
)
def test_what_is_no_template_is_refused(template, message):
    with pytest.raises(PlanError) as error:
        given(plain("a", "A"), model("b"), template=template)
    assert [finding.what for finding in error.value.findings] == [message]


TALK = [
    {"role": "system", "content": "be good"},
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "yo"},
]
CHATML = (
    "<|im_start|>system\nbe good<|im_end|>\n"
    "<|im_start|>user\n hi <|im_end|>\n"
    "<|im_start|>assistant\nyo<|im_end|>\n"
)
LLAMA3 = (
    "<B><|start_header_id|>system<|end_header_id|>\n\nbe good<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nyo<|eot_id|>"
)


@pytest.mark.parametrize(
    ("name", "text", "prompt"),
    [
        ("chatml", CHATML, "<|im_start|>assistant\n"),
        ("llama3", LLAMA3, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)
def test_formats_write_what_is_published(name, text, prompt):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(FORMATS[name])
    assert made.render(messages=TALK, bos_token="<B>") == text
    assert made.render(messages=TALK, bos_token="<B>", add_generation_prompt=True) == text + prompt


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (
            b"nul",
            "tokenizer_config.json: is not valid JSON: Expecting value: line 1 column 1 (char 0); mend or remove",
        ),
        (b"[" * 5000, "tokenizer_config.json: is not valid JSON: maximum recursion depth exceeded"),
        (
            b"\xff",
            "tokenizer_config.json: is not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0",
        ),
        (b"[1]", "tokenizer_config.json: must be a JSON object, got an array; mend or remove the file"),
    ],
)
def test_settings_that_are_no_json_object_are_refused(file, told):
    with pytest.raises(PlanError) as caught:
        given(model("a", tokenizer_config__json=file), model("b"), template="chatml")
    assert str(caught.value).startswith(told)


def test_a_template_that_is_no_text_is_refused():
    with pytest.raises(PlanError) as caught:
        given(model("a", chat_template__jinja=b"ab\xff"), template="a")
    assert str(caught.value) == "chat_template.jinja: is not UTF-8 at byte 2; save the file as UTF-8"


def test_templates_that_are_none_are_passed_over():
    several = settings(
        chat_template=[5, {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    )
    assert template_of({SETTINGS: several}) == "D"


def test_half_a_surrogate_pair_stays_what_it_is():
    odd = settings(chat_template="old", odd="\ud800")
    made = given(model("a", tokenizer_config__json=odd), template="chatml").files[SETTINGS]
    assert json.loads(made) == {"chat_template": FORMATS["chatml"], "odd": "\ud800"}
