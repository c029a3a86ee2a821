"""stitch.resize_vocab: rows that stay, rows that are new, and what is refused."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery import PlanError, RecipeError, RunOptions
from tests.plugins.stitch.vocabularies import EMBED, HEAD, config, save, tensors

CPU = RunOptions(device="cpu", threads=2, force=True)


@pytest.fixture
def run(tmp_path):
    """Five tokens in seven rows, of which the last two are padding."""
    save(tmp_path / "a", {"a": 0, "b": 1, "c": 2, "d": 3}, {"<s>": 4}, vocab=7, seed=1)

    def make(params="", dtype=None):
        text = f"""
surgery: 1
models: {{a: ./a}}
steps: {{m: {{op: stitch.resize_vocab, model: a{params}}}}}
output: {{model: m{f", dtype: {dtype}" if dtype else ""}}}
"""
        surgery.loads(text, folder=tmp_path).run(CPU, out=tmp_path / "out")
        return tensors(tmp_path / "out")

    make.folder = tmp_path
    make.before = tensors(tmp_path / "a")
    return make


def refused(run, params):
    with pytest.raises((PlanError, RecipeError)) as error:
        run(params)
    return str(error.value).partition("steps.m: ")[2]


@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_new_rows_are_the_mean_of_the_tokens_rows(run, name):
    made = run(", pad_to: 8")[name]
    assert torch.equal(made[:7], run.before[name])  # padding too
    mean = run.before[name][:5].double().mean(0)
    assert made.shape == (8, 16)
    assert torch.allclose(made[7].double(), mean, rtol=1e-6, atol=1e-9)


def test_a_mean_that_a_reader_can_check(run):
    from safetensors.torch import save_file

    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [100.0], [100.0]]) * torch.ones(1, 16)
    save_file({**run.before, EMBED: rows}, run.folder / "a" / "model.safetensors")
    made = run(", size: 9")[EMBED]
    assert made[:, 0].tolist() == [1, 2, 3, 4, 5, 100, 100, 3, 3]


def test_config_counts_the_rows_and_everything_else_is_copied(run):
    made = run(", size: 10")
    assert config(run.folder / "out") == {**config(run.folder / "a"), "vocab_size": 10}
    assert all(torch.equal(made[name], t) for name, t in run.before.items() if name not in (EMBED, HEAD))
    assert (run.folder / "out" / "tokenizer.json").read_bytes() == (
        run.folder / "a" / "tokenizer.json"
    ).read_bytes()


def test_zeros(run):
    made = run(", size: 9, fill: zero")[EMBED]
    assert torch.equal(made, torch.cat([run.before[EMBED], torch.zeros(2, 16)]))


@pytest.mark.parametrize(
    ("params", "rows"), [(", size: tokens", 5), (", size: 6", 6), ("", 7), (", size: tokens, pad_to: 4", 8)]
)
def test_padding_may_go(run, params, rows):
    made = run(params)[EMBED]
    assert made.shape[0] == rows
    assert torch.equal(made[:7], run.before[EMBED][:rows])


def test_the_same_size_is_the_same_bytes(run):
    run("")
    files = [run.folder / folder / "model.safetensors" for folder in ("a", "out")]
    a, out = (file.read_bytes()[-run.before[HEAD].nbytes :] for file in files)
    assert a == out
    assert config(run.folder / "out") == config(run.folder / "a")


def test_without_a_tokenizer_all_rows_are_tokens(run):
    (run.folder / "a" / "tokenizer.json").unlink()
    made = run(", size: 8")[EMBED]
    assert torch.allclose(made[7].double(), run.before[EMBED].double().mean(0), rtol=1e-6, atol=1e-9)


def test_draws_depend_on_the_seed_alone(run):
    one, again, other = (
        run(f", size: 10, fill: noise, scale: 1.0{seed}")[EMBED] for seed in ("", "", ", seed: 1")
    )
    assert torch.equal(one, again)
    assert torch.equal(one[:7], other[:7])
    assert not torch.equal(one[7:], other[7:])
    assert len({tuple(row.tolist()) for row in one}) == 10


def test_without_scale_a_draw_is_the_mean(run):
    made = run(", size: 9, fill: noise, scale: 0.0")[EMBED]
    mean = run.before[EMBED][:5].double().mean(0)
    assert torch.allclose(made[7:].double(), mean.expand(2, 16), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (", size: 4", "`a` has 5 tokens, got 4 rows; give at least one for each token"),
        (
            ", size: 13, fill: noise",
            "6 new rows are drawn around 5; draw no more than there are, or set `fill: mean`",
        ),
    ],
)
def test_what_cannot_be_is_refused(run, params, text):
    assert refused(run, params) == text


def test_an_unknown_size_is_refused(run):
    with pytest.raises(RecipeError, match=r"steps\.m\.size"):
        run(", size: all")
