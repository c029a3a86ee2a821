"""tokenizer.json read as JSON: tokens, ids, settings, and files that are none."""

from __future__ import annotations

import json

import pytest

from surgery.checkpoint.tokenizer import read_tokenizer, vocabulary
from surgery.errors import CheckpointError

ADDED = [{"id": 2, "content": "<s>", "special": True}]


def written(model, added=()):
    return json.dumps({"model": model, "added_tokens": list(added)}).encode()


def test_ids_are_those_of_the_vocabulary_and_of_added_tokens():
    found = vocabulary(written({"vocab": {"a": 0, "b": 1}}, ADDED))
    assert found.ids == {"a": 0, "b": 1, "<s>": 2}
    assert found.added == {"<s>": ADDED[0]}


def test_a_vocabulary_that_is_a_list_is_numbered():
    assert vocabulary(written({"vocab": [["<unk>", 0.0], ["▁a", -1.5]]})).ids == {"<unk>": 0, "▁a": 1}


def test_a_file_and_its_bytes_are_the_same(tmp_path):
    data = written({"vocab": {"a": 0}}, ADDED)
    (tmp_path / "tokenizer.json").write_bytes(data)
    assert vocabulary(tmp_path / "tokenizer.json") == vocabulary(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[1", "Expecting ',' delimiter"),
        (b"{}", "'model'"),
        (b'{"model": 3}', "`model` is no object"),
        (b'{"model": {"vocab": {"a": "b"}}}', "an id is no whole number"),
        (b'{"model": {}, "added_tokens": [{}]}', "'content'"),
    ],
)
def test_what_is_no_tokenizer_is_refused(data, text, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        vocabulary(file)
    assert str(error.value).startswith(f"{file}: not a tokenizer: {text}")
    assert str(error.value).endswith("; mend or remove the file")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file or directory"):
        read_tokenizer(tmp_path / "tokenizer.json")
