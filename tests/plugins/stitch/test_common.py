"""Embeddings of one model with the head of another: who is tied, and what the result says."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.ops import Take
from surgery.tensors import TensorSpec
from surgery.testing import run_layout, tiny_config, tiny_specs, view
from surgery_hf.architectures import ARCHITECTURES
from surgery_stitch.layers import layers

DECODER, _, BERT, *_ = ARCHITECTURES
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def llama(name, changes=None, drop=(), **settings):
    config = {k: v for k, v in (tiny_config(**settings) | (changes or {})).items() if k not in drop}
    return view(name, tiny_specs(**settings), config, DECODER)


def stitch(*models, **settings):
    return run_layout(layers, {"layers": ["a[0]", "b[1]"], **settings}, models)


def test_a_tied_model_stays_tied():
    layout = run_layout(layers, {"layers": ["a[0]", "a[0]"]}, [llama("a", tied=True)])
    assert HEAD not in layout.tensors
    assert layout.config["tie_word_embeddings"] is True


def test_a_tied_embedding_with_another_models_head_is_untied():
    layout = stitch(llama("a", tied=True), llama("b"))
    assert layout.tensors[EMBED] == Take("a", EMBED)
    assert layout.tensors[HEAD] == Take("b", HEAD)
    assert layout.config["tie_word_embeddings"] is False


def test_a_tied_head_is_the_embedding_of_its_model():
    layout = stitch(llama("a"), llama("b", tied=True))
    assert layout.tensors[EMBED] == Take("a", EMBED)
    assert layout.tensors[HEAD] == Take("b", EMBED)
    assert layout.config["tie_word_embeddings"] is False


@pytest.mark.parametrize("drop", [(), ("tie_word_embeddings",)])
def test_two_tied_models_cannot_give_one_end_each(drop):
    with pytest.raises(PlanError) as error:
        stitch(llama("a", tied=True, drop=drop), llama("b", tied=True))
    assert str(error.value) == (
        "`a` and `b` both tie their head to their embeddings, so the embeddings of one cannot go with the head "
        "of the other; set `embed` and `head` to the same model, or `tied: embed`"
    )


def test_two_tied_models_may_stay_tied_to_the_embeddings_of_the_first():
    layout = stitch(llama("a", tied=True), llama("b", tied=True), tied="embed")
    assert layout.tensors[EMBED] == Take("a", EMBED)
    assert layout.tensors[NORM] == Take("b", NORM)
    assert HEAD not in layout.tensors
    assert layout.config["tie_word_embeddings"] is True


def test_tied_decides_nothing_for_models_that_are_not_both_tied():
    layout = stitch(llama("a"), llama("b", tied=True), tied="embed")
    assert layout.tensors[HEAD] == Take("b", EMBED)


def test_the_tie_is_written_where_it_is_nested():
    def multimodal(name, *, tied):
        specs, config = tiny_specs(tied=tied), tiny_config(tied=tied)
        return view(name, specs, {"architectures": ["XForCausalLM"], "text_config": config}, DECODER)

    layout = stitch(multimodal("a", tied=True), multimodal("b", tied=False))
    assert layout.config["text_config"]["tie_word_embeddings"] is False
    assert layout.config["text_config"]["num_hidden_layers"] == 2


def test_vocabularies_that_differ_are_refused():
    with pytest.raises(PlanError) as error:
        stitch(llama("a"), llama("b", vocab=40))
    assert str(error.value) == (
        "`a` and `b` have vocabularies of 32 and 40 tokens; set `embed` and `head` to the same model"
    )


def test_the_vocabulary_of_a_model_that_only_gives_layers_does_not_matter():
    settings = {"layers": ["a[0]", "b[1]"], "head": "a"}
    layout = run_layout(layers, settings, [llama("a"), llama("b", vocab=40)])
    assert layout.config["vocab_size"] == 32


def test_encoders_without_a_head_have_nothing_to_tie():
    names = ["embeddings.word_embeddings.weight", "pooler.dense.weight"]
    names += [f"encoder.layer.{i}.output.dense.weight" for i in range(2)]
    specs = {name: TensorSpec(name, (4, 4), "F32") for name in names}
    config = {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 2}
    layout = stitch(view("a", specs, config, BERT), view("b", specs, config, BERT))
    assert layout.tensors["embeddings.word_embeddings.weight"].model == "a"
    assert layout.tensors["pooler.dense.weight"].model == "b"
