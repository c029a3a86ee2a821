"""Tokens of two tokenizers that are the same, written in GPT-2's letters or sentencepiece's."""

from __future__ import annotations

import json

from surgery.testing import tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch._match import gpt2_letters, matches
from surgery_stitch._speaker import speaker
from tests.plugins.stitch.vocabularies import tokenizer


def model(name, vocabulary, added=None, *, byte_level=False, **config):
    document = json.loads(tokenizer(vocabulary, added))
    if byte_level:
        document["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}
    files = {"tokenizer.json": json.dumps(document).encode()}
    given = {**tiny_config(vocab=8), "bos_token_id": None, "eos_token_id": None, **config}
    return speaker(view(name, tiny_specs(vocab=8), given, ARCHITECTURES[0], files))


def test_tokens_of_one_kind_are_compared_as_they_are():
    a, b = model("a", {"x": 0, "▁y": 1}), model("b", {"▁y": 0, "z": 1, "x": 2})
    assert matches(a, b) == {0: 1, 2: 0}


def test_tokens_of_two_kinds_are_compared_by_their_bytes():
    a = model("a", {"▁the": 0, "é": 1, "<0x0A>": 2, "the": 3})
    b = model("b", {"Ġthe": 0, "Ã©": 1, "Ċ": 2, "the": 3, "Ġa": 4}, byte_level=True)
    assert matches(a, b) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert matches(b, a) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_a_letter_is_its_own_token_before_it_is_a_byte():
    a = model("a", {"<0x61>": 0, "<0x62>": 1, "a": 2})
    b = model("b", {"a": 0, "b": 1}, byte_level=True)
    assert matches(a, b) == {0: 2, 1: 1}


def test_added_tokens_are_compared_by_name():
    a = model("a", {"Ġ": 0}, {"<e>": 1}, byte_level=True)
    b = model("b", {"▁": 0, "<e>": 2}, {"▁x": 1})
    assert matches(a, b) == {0: 0}  # `<e>` is text in b, and `▁x` a name


def test_special_tokens_are_matched_by_role_whatever_they_are_called():
    a = model("a", {"x": 0}, {"<s>": 1, "</s>": 2}, bos_token_id=1, eos_token_id=2)
    b = model("b", {"x": 0, "</s>": 1}, {"<end>": 2}, eos_token_id=[2, 1])
    assert matches(a, b) == {0: 0, 1: 2, 2: 2}


def test_gpt2_has_a_letter_for_every_byte():
    letters = gpt2_letters()
    assert sorted(letters.values()) == list(range(256))
    assert (letters["Ġ"], letters["Ċ"], letters["a"], letters["ÿ"]) == (32, 10, 97, 255)
