"""Tokenizers with further tokens: what the tokenizers library and transformers make of the files."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import surgery
from surgery import PlanError, RunOptions
from surgery.testing import save_tiny
from tests.plugins.stitch.vocabularies import EMBED, save, tensors

CPU = RunOptions(device="cpu", threads=2)
TEXTS = ["hello there hello", "more tokens for old weights", "he said <|new|>hello"]


def bpe(corpus, special):
    """A byte-level BPE tokenizer, trained on some words; special tokens come last and are not in its vocabulary."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    made.add_special_tokens([AddedToken(token, rstrip=True) for token in special])
    return made


@pytest.fixture
def union(tmp_path):
    """Saves models with tokenizers and returns a function that runs a union of them on the first."""

    def make(*made, rows=None, params=""):
        for name, words in zip("ab", made, strict=True):
            save_tiny(tmp_path / name, layers=1, vocab=rows or words.get_vocab_size())
            words.save(str(tmp_path / name / "tokenizer.json"))
        text = f"""
surgery: 1
models: {{a: ./a, b: ./b}}
steps: {{m: {{op: stitch.tokenizer, models: [a, b], of: a{params}}}}}
output: {{model: m}}
"""
        surgery.loads(text, folder=tmp_path).run(CPU, out=tmp_path / "out")
        return Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))

    return make


def test_a_union_of_bpe_tokenizers_cuts_text_as_the_base_does(union):
    a, b = (
        bpe(["hello there"] * 9, ["<|end|>"]),
        bpe(["old weights, more tokens"] * 9, ["<|end|>", "<|new|>"]),
    )
    made = union(a, b)
    for text in TEXTS[:2]:
        assert made.encode(text).ids == a.encode(text).ids
    ids = made.get_vocab()
    assert all(ids[token] == i for token, i in a.get_vocab().items())
    assert ids.keys() == a.get_vocab().keys() | b.get_vocab().keys()
    assert sorted(ids.values()) == list(range(len(ids)))


def test_an_added_token_is_found_in_text_with_the_settings_of_its_model(union):
    a, b = bpe(["hello"] * 9, ["<|end|>"]), bpe(["hello"] * 9, ["<|end|>", "<|new|>"])
    made = union(a, b)
    new = made.token_to_id("<|new|>")
    assert new == a.get_vocab_size()
    assert made.encode("<|new|>  hello").ids == [new, *a.encode("hello").ids]  # rstrip, as it is set in b
    assert made.get_added_tokens_decoder()[new].special


def test_tokens_of_the_other_vocabulary_are_decoded_though_no_text_gives_them(union):
    made = union(bpe(["hello"] * 9, []), bpe([" weights"] * 9, []))
    assert made.decode([made.token_to_id("Ġweights")]) == " weights"
    assert made.token_to_id("Ġweights") not in made.encode(" weights").ids


def test_a_union_with_a_unigram_tokenizer_numbers_what_is_new_behind_all(union):
    a = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0, byte_fallback=False))
    a.add_special_tokens(["<|end|>"])
    made = union(a, bpe(["hello"] * 9, ["<|new|>"]))
    assert made.get_vocab()["<|end|>"] == 3
    assert sorted(made.get_vocab().values()) == list(range(made.get_vocab_size()))
    assert made.encode("ab<|new|>").tokens == ["a", "b", "<|new|>"]


def test_tokens_without_a_row_are_left_out(tmp_path):
    save(tmp_path / "a", {"a": 0, "b": 1}, {"<s>": 2, "<image>": 3}, vocab=3)
    save(tmp_path / "b", {"a": 0, "b": 1, "c": 2}, {"<s>": 3})
    text = """
surgery: 1
models: {a: ./a, b: ./b}
steps: {m: {op: stitch.tokenizer, models: [a, b], of: a}}
output: {model: m, to: ./out}
"""
    surgery.loads(text, folder=tmp_path).run(CPU)
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.get_vocab() == {"a": 0, "b": 1, "<s>": 2, "c": 3}
    assert tensors(tmp_path / "out")[EMBED].shape[0] == 4


def test_tokens_of_the_vocabulary_itself_need_a_row(tmp_path):
    save(tmp_path / "a", {"a": 0, "b": 1, "c": 2}, vocab=2)
    save(tmp_path / "b", {"a": 0, "d": 1})
    text = "surgery: 1\nmodels: {a: ./a, b: ./b}\nsteps: {m: {op: stitch.tokenizer, models: [a, b], of: a}}\n"
    with pytest.raises(PlanError, match="tokens of the tokenizer itself have no row in the embeddings"):
        surgery.loads(text + "output: {model: m}", folder=tmp_path).resolve(out=tmp_path / "x")


def put(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def settled(tmp_path):
    """Two models whose tokenizers come with settings, and a function that makes their union."""
    save(tmp_path / "a", {"a": 0, "b": 1}, {"<s>": 2})
    save(tmp_path / "b", {"a": 0, "b": 1, "c": 2}, {"<x>": 3})
    special = {
        "content": "<s>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    settings = {
        "added_tokens_decoder": {"2": special},
        "eos_token": "<s>",
        "chat_template": "A{{ messages }}",
    }
    put(tmp_path / "a", "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    put(tmp_path / "a", "added_tokens.json", {"<s>": 2})
    put(tmp_path / "a", "preprocessor_config.json", {"of": "a"})
    put(tmp_path / "b", "chat_template.jinja", "B{{ messages }}")
    put(tmp_path / "b", "preprocessor_config.json", {"of": "b"})

    def make(of="a", **params):
        written = "".join(f", {key}: '{value}'" for key, value in params.items())
        text = f"""
surgery: 1
models: {{a: ./a, b: ./b}}
steps: {{m: {{op: stitch.tokenizer, models: [a, b], of: {of}{written}}}}}
output: {{model: m, to: ./out}}
"""
        surgery.loads(text, folder=tmp_path).run(CPU)
        return lambda name: json.loads((tmp_path / "out" / name).read_text())

    make.folder = tmp_path / "out"
    return make


def test_settings_know_the_added_tokens(settled):
    read = settled()
    decoder = read("tokenizer_config.json")["added_tokens_decoder"]
    assert {i: token["content"] for i, token in decoder.items()} == {"2": "<s>", "4": "<x>"}
    assert read("added_tokens.json") == {"<s>": 2, "<x>": 4}
    assert read("tokenizer_config.json")["eos_token"] == "<s>"


def test_transformers_loads_the_result(settled):
    from transformers import AutoTokenizer

    settled()
    made = AutoTokenizer.from_pretrained(settled.folder)
    assert made("a <x> c")["input_ids"] == [0, 4, 3]
    assert (made.eos_token_id, len(made)) == (2, 5)
    assert made.chat_template == "A{{ messages }}"


def test_processors_are_the_models_own(settled):
    assert settled("b")("preprocessor_config.json") == {"of": "b"}


@pytest.mark.parametrize(
    ("wanted", "text"), [("b", "B{{ messages }}"), ("a", "A{{ messages }}"), ("C{{ x }}", "C{{ x }}")]
)
def test_a_chat_template_is_chosen(settled, wanted, text):
    from transformers import AutoTokenizer

    read = settled(chat_template=wanted)
    assert read("tokenizer_config.json")["chat_template"] == text
    assert AutoTokenizer.from_pretrained(settled.folder).chat_template == text


def test_where_no_template_was_a_file_is_made(settled):
    settled(source="b", chat_template="a")
    assert (settled.folder / "chat_template.jinja").read_text() == "A{{ messages }}"


def test_the_same_union_from_two_models_is_the_same_file(settled):
    settled("a")
    first = (settled.folder / "tokenizer.json").read_bytes()
    shutil.rmtree(settled.folder)
    settled("b")
    assert (settled.folder / "tokenizer.json").read_bytes() == first


@pytest.mark.parametrize(
    ("file", "value", "told"),
    [
        (
            "added_tokens.json",
            {"x": "one"},
            "added_tokens.json: must map tokens to ids; mend or remove the file",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"one": {}}},
            "tokenizer_config.json: `added_tokens_decoder` must map ids to tokens; mend the file",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": [1]},
            "tokenizer_config.json: `added_tokens_decoder` must map ids to tokens; mend the file",
        ),
    ],
)
def test_lists_of_tokens_that_are_none_are_refused(union, tmp_path, file, value, told):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / file).write_text(json.dumps(value))
    with pytest.raises(PlanError) as caught:
        union(bpe(["hello"], []), bpe(["hello"], ["<|new|>"]))
    assert told in str(caught.value)


def test_a_tokenizer_that_changed_on_the_disk_is_read_again(union, tmp_path):
    """In a notebook, say: nothing that is kept of a file may outlive it."""
    before = union(bpe(["hello"], []), bpe(["hello"], ["<|new|>"]))
    for name in ("a", "b", "out"):
        shutil.rmtree(tmp_path / name)
    after = union(bpe(["hello"], []), bpe(["hello"], ["<|old|>"]))
    assert before.token_to_id("<|new|>") is not None
    assert (after.token_to_id("<|new|>"), after.token_to_id("<|old|>") is not None) == (None, True)
