"""adapter.extract by itself, then against peft: what it writes is what peft reads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.errors import OpError, PlanError
from surgery.tensors import Role
from surgery.testing import run_emitting_op
from surgery_adapter.extract import extract

ZOO = Path(__file__).parents[3] / "recipes" / "zoo"
PREFIX = "base_model.model."
Q = Role("attention.q", 0)


def extracted(name: str, role: Role, change: torch.Tensor, **params: Any) -> dict[str, torch.Tensor]:
    base = torch.full_like(change, 0.5)
    made = run_emitting_op(extract, params, [base + change], base, name=name, role=role)
    return {key.removeprefix(PREFIX): value for key, value in made.items()}


def test_a_change_of_rank_one_is_its_factors():
    made = extracted("m.q.weight", Q, torch.tensor([[6.0, 8.0], [12.0, 16.0]]), rank=1)
    assert {key: tuple(value.shape) for key, value in made.items()} == {
        "m.q.lora_A.weight": (1, 2),
        "m.q.lora_B.weight": (2, 1),
    }
    product = made["m.q.lora_B.weight"] @ made["m.q.lora_A.weight"]
    torch.testing.assert_close(product, torch.tensor([[6.0, 8.0], [12.0, 16.0]]))


def test_embeddings_and_weights_in_out_are_factored_transposed():
    change = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    made = extracted("m.e.weight", Role("embed"), change, rank=1, targets="all")
    assert made["m.e.lora_embedding_A"].shape == (1, 3)
    torch.testing.assert_close((made["m.e.lora_embedding_B"] @ made["m.e.lora_embedding_A"]).T, change)
    made = extracted("m.q.weight", Q, change, rank=1, fan_in_fan_out=True)
    torch.testing.assert_close((made["m.q.lora_B.weight"] @ made["m.q.lora_A.weight"]).T, change)


def test_what_has_no_factors_is_the_fine_tunes_own():
    change = torch.tensor([1.0, 2.0])
    norm = extracted("m.norm.weight", Role("norm.final"), change, save="rest")
    assert norm["m.norm.weight"].tolist() == [1.5, 2.5]
    assert list(extracted("m.q.bias", Q, change, save="rest")) == ["m.q.base_layer.bias"]


@pytest.mark.parametrize(("energy", "kept"), [(9 / 14, 1), (0.65, 2), (13 / 14, 2), (0.93, 3), (1.0, 3)])
def test_energy_keeps_as_many_directions_as_have_that_share(energy: float, kept: int):
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    made = extracted("m.q.weight", Q, change, rank=3, energy=energy)
    A, B = made["m.q.lora_A.weight"], made["m.q.lora_B.weight"]
    assert (A.shape, B.shape) == ((3, 3), (3, 3))
    assert (int(A.any(1).sum()), int(B.any(0).sum())) == (kept, kept)
    torch.testing.assert_close(
        B @ A, torch.diag(torch.tensor([3.0, 2.0, 1.0]).where(torch.arange(3) < kept, 0))
    )


@pytest.mark.parametrize(
    ("params", "noted"),
    [
        ({"rank": 3}, {"rank": 3, "energy": 1.0}),
        ({"rank": 2}, {"rank": 2, "energy": 13 / 14}),
        ({"rank": 3, "energy": 0.6}, {"rank": 1, "energy": 9 / 14}),
    ],
    ids=str,
)
def test_what_a_rank_keeps_of_a_change_is_noted(params: dict[str, Any], noted: dict[str, float]):
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    for more in ({}, {"fan_in_fan_out": True}):
        notes: dict[str, float] = {}
        base = torch.zeros(3, 3)
        run_emitting_op(extract, {**params, **more}, [change], base, name="m.q.weight", role=Q, notes=notes)
        assert notes == pytest.approx(noted, rel=1e-12)


def test_of_no_change_there_is_no_share_to_note():
    notes: dict[str, float] = {}
    zero = torch.zeros(3, 2)
    run_emitting_op(extract, {"rank": 1}, [zero], zero, name="m.q.weight", role=Q, notes=notes)
    assert notes == {"rank": 0}


def test_the_share_that_is_noted_is_that_of_the_randomized_method_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("surgery.math.ranks.EXACT_UP_TO", 8)
    change, notes = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)), {}
    made = run_emitting_op(
        extract, {"rank": 9}, [change], torch.zeros(60, 40), name="m.q.weight", role=Q, notes=notes
    )
    product = made[f"{PREFIX}m.q.lora_B.weight"].double() @ made[f"{PREFIX}m.q.lora_A.weight"].double()
    lost = (change - product).square().sum() / change.double().square().sum()
    assert notes == {"rank": 9, "energy": pytest.approx(1 - float(lost), rel=1e-6)}


def test_energy_takes_no_more_than_the_rank_and_nothing_of_no_change():
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    full, asked = (extracted("m.q.weight", Q, change, rank=2, **p) for p in ({}, {"energy": 1.0}))
    assert all(torch.equal(full[key], asked[key]) for key in full)
    none = extracted("m.q.weight", Q, torch.zeros(3, 3), rank=2, energy=0.9)
    assert all(value.count_nonzero() == 0 for value in none.values())


def test_energy_of_a_large_change_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    # the randomized method sees a few singular values, their share is of all
    monkeypatch.setattr("surgery.math.ranks.EXACT_UP_TO", 10)
    change = torch.diag(torch.tensor([8.0, 4.0, *[0.5] * 28]))  # 64, 16 and 7 of 87
    made = extracted("m.q.weight", Q, change, rank=5, energy=80 / 87 - 1e-3)
    assert int(made["m.q.lora_A.weight"].any(1).sum()) == 2


def test_factors_are_rounded_once_to_their_dtype():
    change = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    full = extracted("m.q.weight", Q, change, rank=5)
    half = extracted("m.q.weight", Q, change, rank=5, dtype="bfloat16")
    assert all(torch.equal(half[key], full[key].bfloat16()) for key in full)


def test_a_tensor_that_is_no_modules_own_cannot_be_saved():
    with pytest.raises(
        OpError, match="peft saves weights and biases of modules only; leave it out with `where:`"
    ):
        extracted("m.A_log", Role("other", 0), torch.ones(2), save="rest")


def run(folder: Path, step: dict[str, Any], model: str = "math") -> Path:
    recipe = {
        "surgery": 1,
        "models": {"base": str(ZOO / "base"), "tuned": str(ZOO / model)},
        "steps": {"lora": {"op": "adapter.extract", "base": "base", "model": "tuned", **step}},
        "output": {"model": "lora", "to": str(folder / "lora")},
    }
    loaded = surgery.loads(json.dumps(recipe), folder=folder)
    loaded.resolve(force=True).run(surgery.RunOptions(device="cpu", force=True))
    return folder / "lora"


def merged_by_peft(adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def stored(name: str) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(ZOO / name / "model.safetensors").items()}


def test_peft_rebuilds_the_fine_tune_from_factors_of_full_rank_and_the_rest(tmp_path: Path):
    adapter = run(tmp_path, {"rank": 4096, "save": "rest"})
    assert {file.name for file in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    found = merged_by_peft(adapter)
    for name, weight in stored("math").items():
        # factors of float32: 2⁻²³ of the change in norm, and peft's own sums of up to 128 products
        torch.testing.assert_close(found[name], weight, rtol=0, atol=4e-6 * float(weight.abs().max()))


def test_peft_rebuilds_the_nearest_change_of_the_rank(tmp_path: Path):
    found = merged_by_peft(run(tmp_path, {"rank": 4}))
    base, math = stored("base"), stored("math")
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"):
        squares = torch.linalg.svdvals((math[name] - base[name]).double()).square()
        error = (found[name] - math[name]).double().norm()
        assert float(error) == pytest.approx(float(squares[4:].sum().sqrt()), rel=1e-4)
    assert torch.equal(found["model.norm.weight"], base["model.norm.weight"])


def test_our_own_fold_reads_it_back(tmp_path: Path):
    run(tmp_path, {"rank": 6, "dtype": "bfloat16", "save": "rest", "targets": "all"})
    text = {
        "surgery": 1,
        "models": {"back": {"source": str(ZOO / "base"), "adapter": "./lora"}},
        "output": {"model": "back", "dtype": "float32"},
    }
    folded = surgery.state_dict(surgery.loads(json.dumps(text), folder=tmp_path))
    expected = merged_by_peft(tmp_path / "lora")
    for name in folded:
        torch.testing.assert_close(
            folded[name], expected[name], rtol=0, atol=1e-6 * float(expected[name].abs().max())
        )


def test_an_adapter_that_peft_cannot_load_is_refused_with_its_place(tmp_path: Path):
    with pytest.raises(PlanError) as caught:
        run(tmp_path, {"where": "norm"})
    assert str(caught.value).endswith(
        "steps.lora: gives factors to nothing: no matrix is left; see `targets` and `where`"
    )


def test_gpt2s_weights_in_out_come_back_through_peft_and_through_our_fold(tmp_path: Path):
    from peft import PeftModel
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=31, n_positions=8)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    changed = {name: w for name, w in model.named_parameters() if "c_" in name and name.endswith("weight")}
    with torch.no_grad():
        for weight in changed.values():
            weight.add_(torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1]))
    model.save_pretrained(tmp_path / "tuned")
    step = {"op": "adapter.extract", "base": "base", "model": "tuned", "rank": 2, "fan_in_fan_out": True}
    recipe: dict[str, Any] = {
        "surgery": 1,
        "models": {"base": "./base", "tuned": "./tuned"},
        "steps": {"lora": step},
        "output": {"model": "lora", "to": "./lora"},
    }
    loaded = surgery.loads(json.dumps(recipe), folder=tmp_path)
    loaded.resolve().run(surgery.RunOptions(device="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        merged = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload().state_dict()
    back = {
        "surgery": 1,
        "models": {"b": {"source": "./base", "adapter": "./lora"}},
        "output": {"model": "b"},
    }
    folded = surgery.state_dict(surgery.loads(json.dumps(back), folder=tmp_path))
    assert len(changed) == 8
    for name, weight in changed.items():
        # changes of rank two and size one, factored in float64 and stored in float32
        torch.testing.assert_close(merged[name], weight.detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(folded[name], weight.detach(), rtol=0, atol=1e-5)
