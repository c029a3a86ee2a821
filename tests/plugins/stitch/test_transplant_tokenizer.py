"""stitch.transplant_tokenizer: common tokens keep their rows, others are the same combination of the model's own."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery import PlanError, RunOptions
from tests.plugins.stitch.vocabularies import EMBED, HEAD, config, save, tensors

CPU = RunOptions(device="cpu", threads=2, force=True)


@pytest.fixture
def run(tmp_path):
    """The host has 16 columns, the donor 8; a b c are common. Row d of the donor is 2a + b, row f is -c."""
    save(tmp_path / "host", {"a": 0, "b": 1, "c": 2, "x": 3}, seed=1)
    save(tmp_path / "donor", {"d": 0, "c": 1, "b": 2, "a": 3, "f": 4}, seed=2, hidden=8, heads=2, vocab=6)
    stored = tensors(tmp_path / "donor")
    for name, far in ((EMBED, 1.0), (HEAD, 3.0)):
        w = torch.zeros(6, 8)
        w[3, 0], w[2, 1], w[1, 2] = 2.0, far, 4.0
        w[0], w[4] = 2 * w[3] + w[2], -w[1]
        stored[name] = w
    save_file(stored, tmp_path / "donor" / "model.safetensors")
    edited = {**config(tmp_path / "donor"), "bos_token_id": None, "eos_token_id": None}
    (tmp_path / "donor" / "config.json").write_text(json.dumps(edited))

    def make(params=", k: 2", to="out"):
        text = f"""
surgery: 1
models: {{host: ./host, donor: ./donor}}
steps: {{m: {{op: stitch.transplant_tokenizer, models: [host, donor]{params}}}}}
output: {{model: m}}
"""
        surgery.loads(text, folder=tmp_path).run(CPU, out=tmp_path / to)
        return tensors(tmp_path / to)

    make.folder = tmp_path
    make.host = tensors(tmp_path / "host")
    return make


@pytest.mark.parametrize("name", [EMBED, HEAD])
@pytest.mark.parametrize("params", [", k: 2", ", k: 3, method: common_interpolation, weights: least_squares"])
def test_a_row_is_the_same_combination_of_the_models_own(run, name, params):
    a, b, c, _ = run.host[name]
    made = run(params)[name]
    assert torch.equal(made[1:4], torch.stack([c, b, a]))
    assert torch.allclose(made[0], 2 * a + b, rtol=1e-5, atol=1e-7)
    assert torch.allclose(made[4], -c, rtol=1e-5, atol=1e-7)


def test_padding_is_the_mean_of_all_tokens(run):
    made = run()[EMBED]
    assert made.shape == (6, 16)
    assert torch.allclose(made[5].double(), made[:5].double().mean(0), rtol=1e-6, atol=1e-9)
    assert run(", k: 1, pad_to_multiple_of: 4")[EMBED].shape == (8, 16)


def test_tokenizer_and_config_are_those_of_the_result(run):
    run()
    out, donor = run.folder / "out", run.folder / "donor"
    assert (out / "tokenizer.json").read_bytes() == (donor / "tokenizer.json").read_bytes()
    assert (config(out)["vocab_size"], config(out)["hidden_size"]) == (6, 16)
    assert config(out)["eos_token_id"] is None


def test_common_rows_keep_their_bytes_in_bfloat16(run):
    half = {name: tensor.bfloat16() for name, tensor in run.host.items()}
    save_file(half, run.folder / "host" / "model.safetensors")
    made = run(to="half")[EMBED]
    assert made.dtype == torch.bfloat16
    assert torch.equal(made[1:4].view(torch.int16), half[EMBED][[2, 1, 0]].view(torch.int16))


def test_a_model_of_the_same_tokens_stays_what_it_is(run):
    text = """
surgery: 1
models: {host: ./host, donor: ./other}
steps: {m: {op: stitch.transplant_tokenizer, models: [host, donor], k: 1}}
output: {model: m, to: ./same}
"""
    save(run.folder / "other", {"a": 0, "b": 1, "c": 2, "x": 3}, seed=5)
    surgery.loads(text, folder=run.folder).run(CPU)
    made = tensors(run.folder / "same")
    assert all(torch.equal(tensor, run.host[name]) for name, tensor in made.items())


def test_too_few_common_tokens_are_refused(run):
    with pytest.raises(PlanError) as error:
        run("")
    assert str(error.value).partition("steps.m: ")[2] == (
        "`host` and `donor` have 3 tokens in common; set `k` to that or less"
    )
