"""What a model's vocabulary is, from names, shapes and tokenizer.json; what config.json says of special tokens."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.tensors import TensorSpec
from surgery.testing import tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch._speaker import speaker, special_ids, with_vocabulary
from tests.plugins.stitch.vocabularies import EMBED, HEAD, tokenizer


def model(*extra, ids=None, tied=False, vocab=4, **config):
    specs = tiny_specs(vocab=vocab, tied=tied) | {spec.name: spec for spec in extra}
    files = {"tokenizer.json": tokenizer(ids)} if ids is not None else {}
    return view("a", specs, {**tiny_config(vocab=vocab, tied=tied), **config}, ARCHITECTURES[0], files)


def spec(name, *shape):
    return TensorSpec(name, shape, "F32")


def test_embeddings_head_and_its_bias_have_a_row_for_each_token():
    found = speaker(model(spec("lm_head.bias", 4)))
    assert found.names == {"embeddings": EMBED, "head": HEAD, "bias of the head": "lm_head.bias"}
    assert found.rows == 4


def test_a_tied_head_takes_the_embeddings():
    found = speaker(model(tied=True))
    assert found.names == {"embeddings": EMBED}
    assert found.tensor("head") == EMBED


def test_a_classifier_is_no_head_of_tokens():
    made = model(spec("score.weight", 3, 16), tied=True, architectures=["LlamaForSequenceClassification"])
    assert speaker(made).names == {"embeddings": EMBED}


def test_tokens_beyond_the_rows_do_not_count():
    found = speaker(model(ids={"a": 0, "c": 2, "far": 4}))
    assert (found.ids, found.real) == ({"a": 0, "c": 2}, 3)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (
            lambda: model(spec("other.embed_tokens.weight", 4, 16)),
            "`a` has 2 embedding matrices; one is needed, with a row for each token",
        ),
        (
            lambda: view("a", {}, {}, ARCHITECTURES[0]),
            "`a` has no embedding matrices; one is needed, with a row for each token",
        ),
        (
            lambda: model(spec("model.embed_tokens_per_layer.weight", 4, 8)),
            "model.embed_tokens_per_layer.weight of `a` has 4 rows, as many as the embeddings, and a role that is "
            "not known; models with further tensors for each token cannot be given another vocabulary",
        ),
        (
            lambda: model(spec(HEAD, 5, 16)),
            "`a` has 4 rows of embeddings and 5 of lm_head.weight; make them equal first",
        ),
    ],
)
def test_a_vocabulary_that_is_not_clear_is_refused(made, text):
    with pytest.raises(PlanError) as error:
        speaker(made())
    assert str(error.value) == text


def test_a_head_that_is_not_there_cannot_give_rows():
    with pytest.raises(PlanError) as error:
        speaker(model(tied=True, tie_word_embeddings=False)).tensor("head")
    assert str(error.value) == "`a` has no head to take rows from; leave it out, or set `tokens`"


def test_special_tokens_keep_their_meaning():
    own = speaker(model(ids={"x": 0, "<s>": 1, "</s>": 2}, eos_token_id=[2, 0], bos_token_id=1))
    target = speaker(model(ids={"</s>": 0, "x": 1, "<b>": 2}, bos_token_id=2))
    assert special_ids(own, target.ids, target) == {"eos_token_id": [0, 1], "bos_token_id": 2}


def test_a_nested_config_is_edited_where_it_speaks_of_tokens():
    config = {"text_config": {"vocab_size": 4, "eos_token_id": 2}, "eos_token_id": 2, "model_type": "x"}
    made = with_vocabulary(config, 9, {"eos_token_id": 7, "pad_token_id": 1})
    assert made == {"text_config": {"vocab_size": 9, "eos_token_id": 7}, "eos_token_id": 7, "model_type": "x"}
    assert config["text_config"]["vocab_size"] == 4
