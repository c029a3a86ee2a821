"""eval.perplexity: surgery_eval.perplexity."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from surgery.errors import SurgeryError
from surgery.host import Host
from surgery.trials import Subject
from surgery_eval.perplexity import Perplexity, PerplexityEvaluator

TEXT = "the cat sat on the mat.\nit was flat.\n"


@pytest.fixture
def evaluator():
    return PerplexityEvaluator.make()


def measured(evaluator, subject, tensors, text=TEXT, **params):
    (subject.folder / "text.txt").write_text(text)
    settings = Perplexity(text="text.txt", **params)
    evaluator.check(subject, settings)
    resident = evaluator.open(subject, settings)
    resident.load(tensors.items())
    return evaluator.score(resident, settings)["score"]


def by_hand(subject, tensors, length, *, begin=True):
    """The summed loss from a model that transformers loads itself, one window at a time; the last reaches back."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**subject.config)).eval()
    model.load_state_dict(tensors)
    ids = AutoTokenizer.from_pretrained(subject.folder)(TEXT, add_special_tokens=False)["input_ids"]
    ids = [1, *ids] if begin else ids
    nats = 0.0
    for done in range(1, len(ids), length - 1):
        stop = min(done + length - 1, len(ids))
        start = max(stop - length, 0)
        with torch.inference_mode():
            logs = model(torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
        nats -= sum(float(logs[at - start - 1, ids[at]]) for at in range(done, stop))
    return nats


def test_a_model_that_knows_nothing_is_as_surprised_as_its_vocabulary_is_large(evaluator, subject, tensors):
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    score = measured(evaluator, subject, tensors, unit="token", length=8)
    assert math.exp(score) == pytest.approx(32, rel=1e-6)
    # every letter is a token, and the begin token lets the first count
    assert measured(evaluator, subject, tensors, unit="byte", length=8) == pytest.approx(
        math.log(32), rel=1e-6
    )


@pytest.mark.parametrize("length", [4, 16, 512])
def test_windows_side_by_side_equal_a_loop_over_them(evaluator, subject, tensors, length):
    score = measured(evaluator, subject, tensors, length=length)
    assert score == pytest.approx(by_hand(subject, tensors, length) / len(TEXT), rel=1e-5)


@pytest.mark.parametrize("subject", [False], indirect=True)
def test_without_a_begin_token_the_first_token_is_only_context(evaluator, subject, tensors):
    score = measured(evaluator, subject, tensors, length=64)
    assert score == pytest.approx(by_hand(subject, tensors, 64, begin=False) / len(TEXT), rel=1e-5)


def test_a_stride_of_one_is_full_context_for_every_token(evaluator, subject, tensors):
    whole = measured(evaluator, subject, tensors, length=64, stride=1)
    assert whole == pytest.approx(measured(evaluator, subject, tensors, length=64), rel=1e-5)
    short = measured(evaluator, subject, tensors, length=6, stride=1)
    assert short != pytest.approx(measured(evaluator, subject, tensors, length=6), rel=1e-6)


def test_two_scores_of_the_same_weights_are_equal_to_the_last_bit(evaluator, subject, tensors):
    assert measured(evaluator, subject, tensors) == measured(evaluator, subject, tensors)


def test_what_is_loaded_later_is_what_is_scored(evaluator, subject, tensors):
    first = measured(evaluator, subject, tensors)
    settings = Perplexity(text="text.txt")
    resident = evaluator.open(subject, settings)
    resident.load((name, tensor * 2) for name, tensor in tensors.items())
    other = evaluator.score(resident, settings)["score"]
    resident.load(tensors.items())
    assert evaluator.score(resident, settings)["score"] == first != other


def test_several_files_count_alike_and_are_told_apart(evaluator, subject, tensors):
    (subject.folder / "a.txt").write_text("aaa bbb\n")
    (subject.folder / "b.txt").write_text("the longer file of the two\n" * 4)
    settings = Perplexity(text=["a.txt", "b.txt"], length=16)
    resident = evaluator.open(subject, settings)
    resident.load(tensors.items())
    found = evaluator.score(resident, settings)
    assert found["score"] == pytest.approx((found["a"] + found["b"]) / 2)


def test_parts_of_a_file_meet_at_line_breaks_and_do_not_overlap(evaluator, subject, tensors):
    lines = [f"line {chr(97 + i)}.\n" for i in range(20)]
    (subject.folder / "text.txt").write_text("".join(lines))
    resident = evaluator.open(subject, Perplexity(text="text.txt"))
    halves = []
    for part in ((0, 0.33), (0.33, 1)):
        settings = Perplexity(text="text.txt", part=part)
        resident.load(tensors.items())
        evaluator.score(resident, settings)
        ids, nbytes = evaluator._ids[subject.folder / "text.txt", part]
        halves.append((len(ids) - 1, nbytes))
    assert sum(nbytes for _, nbytes in halves) == len("".join(lines))
    assert all(nbytes % len(lines[0]) == 0 for _, nbytes in halves)


def test_what_is_missing_is_told_before_a_model_is_made(evaluator, subject):
    with pytest.raises(SurgeryError) as error:
        evaluator.check(subject, Perplexity(text="none.txt"))
    assert str(error.value) == (
        f"eval.perplexity: {subject.folder / 'none.txt'}: cannot be read: no such file or directory; check `text`"
    )
    (subject.folder / "text.txt").write_text(TEXT)
    bare = Subject(subject.config, {}, subject.tensors, subject.folder)
    with pytest.raises(SurgeryError) as error:
        evaluator.check(bare, Perplexity(text="text.txt"))
    assert str(error.value) == (
        "eval.perplexity: the model has no tokenizer; name one that has in `output.tokenizer`"
    )


@pytest.mark.parametrize(
    ("data", "told"), [(b"\xff\xfe", "is not UTF-8"), (b" \n", "holds no text between 0 and 1")]
)
def test_a_file_that_is_no_text_is_told(evaluator, subject, data, told):
    (subject.folder / "text.txt").write_bytes(data)
    with pytest.raises(SurgeryError, match=told):
        evaluator.check(subject, Perplexity(text="text.txt"))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"length": 8, "stride": 8}, "`stride` must be below `length` (8), got `8`"),
        ({"part": (0.5, 0.5)}, "`part` must begin below its end, got [0.5, 0.5]"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(params, told):
    with pytest.raises(ValidationError) as error:
        Perplexity(text="t", **params)
    assert told in str(error.value)


def test_a_model_that_transformers_does_not_know_is_told(evaluator, subject):
    (subject.folder / "text.txt").write_text(TEXT)
    odd = Subject({"model_type": "abacus"}, subject.sidecars, subject.tensors, subject.folder)
    with pytest.raises(
        SurgeryError, match=r"^eval.perplexity: transformers cannot build this model: .*check config.json$"
    ):
        evaluator.open(odd, Perplexity(text="text.txt"))


def test_a_tensor_that_transformers_names_otherwise_is_told(evaluator, subject):
    specs = {**subject.tensors, "model.extra": subject.tensors["model.norm.weight"]}
    odd = Subject(subject.config, subject.sidecars, specs, subject.folder)
    with pytest.raises(SurgeryError, match=r"transformers keeps no tensor model\.extra for this model"):
        evaluator.open(odd, Perplexity(text="text.txt"))
    wide = json.loads(json.dumps(subject.config)) | {"vocab_size": 33}
    with pytest.raises(
        SurgeryError, match=r"is \(32, 16\), transformers wants \(33, 16\); check config.json"
    ):
        evaluator.open(Subject(wide, subject.sidecars, subject.tensors, subject.folder), Perplexity(text="t"))


def test_the_family_registers_its_evaluators():
    names = [name for name in Host().trial_names("evaluator") if name.startswith("eval.")]
    assert names == ["eval.perplexity", "eval.python"]
    assert not Host().evaluator("eval.perplexity").executes


def test_scores_rest_on_the_texts(evaluator, subject):
    files = [subject.folder / name for name in ("a.txt", "b.txt")]
    assert evaluator.files(subject, Perplexity(text=["a.txt", "b.txt"])) == files
    assert evaluator.files(subject, Perplexity(text="a.txt")) == files[:1]
