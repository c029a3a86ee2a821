from __future__ import annotations

import json
import math
import os
import stat

import pytest

from surgery.checkpoint.sidecars import (
    config_with_dtype,
    is_sidecar,
    put_sidecars,
    read_config,
    sidecars_in,
    without_quantization,
    write_json,
)
from surgery.errors import CheckpointError, ResourceError

COPIED = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tekken.json",
    "qwen.tiktoken",
]
LEFT = [
    "config.json",
    "modeling_llama.py",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "README.md",
    "LICENSE",
    "vocab.py",
    "vocab.safetensors",
    "adapter_config.json",
    "training_args.bin",
    "model",
    ".gitattributes",
    "notes.txt",
]


def test_tokenizer_processor_and_generation_files_belong_to_a_model():
    assert [name for name in COPIED if not is_sidecar(name)] == []


def test_code_weights_cards_and_licences_do_not():
    assert [name for name in LEFT if is_sidecar(name)] == []


def test_the_sidecars_of_a_folder_are_its_files_by_name(tmp_path):
    for name in ("tokenizer.json", "merges.txt", "modeling.py", "model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "vocab.json").mkdir()
    found = sidecars_in(tmp_path)
    assert list(found.items()) == [(name, tmp_path / name) for name in ("merges.txt", "tokenizer.json")]


def test_the_modules_behind_a_sentence_embedding_model_belong_to_it(tmp_path):
    inner = ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/README.md")
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json", "onnx/model.onnx", *inner):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(sidecars_in(tmp_path)) == ["config_sentence_transformers.json", "sentence_bert_config.json"]
    (tmp_path / "modules.json").touch()
    found = sidecars_in(tmp_path)
    assert [name for name in found if "/" in name] == list(inner[:3])
    put_sidecars(found, tmp_path / "out")
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").read_text() == "2_Dense/model.safetensors"


def test_a_folder_without_a_config_has_an_empty_one(tmp_path):
    assert read_config(tmp_path) == {}


def test_a_config_is_read_as_other_readers_do(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1, "limit": [0.0, Infinity], "a": 2}')
    assert read_config(tmp_path) == {"a": 2, "limit": [0.0, math.inf]}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"[1]", "must be a JSON object, got an array; mend it or fetch it again"),
        (
            b'{"a": }',
            "is not valid JSON: Expecting value: line 1 column 7 (char 6); mend it or fetch it again",
        ),
        (
            b'{"a": "\xff"}',
            "is not valid JSON: 'utf-8' codec can't decode byte 0xff in position 7: invalid start byte;"
            " mend it or fetch it again",
        ),
        (
            b"[" * 100_000,
            "is not valid JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string;"
            " mend it or fetch it again",
        ),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, what):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'config.json'}: {what}"


def test_a_config_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'config.json'}: has 1000000000 bytes, at most 10000000 are read; it is no model's config"
    )


def test_a_config_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'config.json'}: cannot be read: Is a directory"


def test_json_is_written_as_transformers_writes_it(tmp_path):
    from transformers import PretrainedConfig  # here because importing it takes seconds

    PretrainedConfig(architectures=["Ж"], z=[1, {"b": 0.5, "a": None}], dtype="bfloat16").save_pretrained(
        tmp_path
    )
    path = tmp_path / "config.json"
    theirs = path.read_bytes()
    write_json(path, dict(reversed(json.loads(theirs).items())))
    assert path.read_bytes() == theirs


def test_json_is_written_with_two_spaces_sorted_keys_and_a_newline(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {"b": [1, 2.5], "a": {"ж": None}})
    finally:
        os.umask(before)
    text = '{\n  "a": {\n    "\\u0436": null\n  },\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert (tmp_path / "x.json").read_bytes() == text.encode()
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640


def test_json_that_cannot_be_written_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError) as caught:
        write_json(tmp_path / "missing" / "x.json", {})
    assert str(caught.value) == (
        f"{tmp_path / 'missing' / 'x.json'}: cannot be written: No such file or directory;"
        " free some space or write elsewhere"
    )


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": None, "a": 1}, {"torch_dtype": "bfloat16", "a": 1}),
        ({"torch_dtype": "float16", "dtype": "float16"}, {"torch_dtype": "bfloat16", "dtype": "bfloat16"}),
        ({"a": 1}, {"a": 1}),
        (
            {"text_config": {"torch_dtype": "float32"}, "vision_config": {"dtype": "float16", "depth": 2}},
            {"text_config": {"torch_dtype": "bfloat16"}, "vision_config": {"dtype": "bfloat16", "depth": 2}},
        ),
        (
            {"dtype": "float32", "quantization_config": {"dtype": "int4"}, "rope_scaling": {"dtype": "x"}},
            {"dtype": "bfloat16", "quantization_config": {"dtype": "int4"}, "rope_scaling": {"dtype": "x"}},
        ),
        (
            {"thinker_config": {"text_config": {"dtype": "a"}}},
            {"thinker_config": {"text_config": {"dtype": "bfloat16"}}},
        ),
    ],
)
def test_the_dtype_is_edited_where_it_is_stated_and_nowhere_else(config, want):
    before = json.dumps(config)
    assert config_with_dtype(config, "bfloat16") == want
    assert json.dumps(config) == before, "the input is untouched"


def test_what_says_that_weights_are_quantised_is_removed():
    config = {"a": 1, "quantization_config": {}, "text_config": {"compression_config": {}, "b": 2}}
    assert without_quantization(config) == {"a": 1, "text_config": {"b": 2}}
    assert "quantization_config" in config
    assert "compression_config" in config["text_config"]


def test_files_are_copied_and_those_that_are_made_are_written(tmp_path):
    (tmp_path / "a.model").write_bytes(b"abc")
    out = tmp_path / "out"
    out.mkdir()
    put_sidecars({"b.model": tmp_path / "a.model", "tokenizer.json": b"{}"}, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "b.model": b"abc",
        "tokenizer.json": b"{}",
    }
