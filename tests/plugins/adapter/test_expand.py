"""Compacter's layers as Linears: numbers by hand, the layers' own product, shared parts, and files on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.architecture import Architecture
from surgery.errors import PlanError
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_layout, run_op, view
from surgery_adapter._phm import phm
from surgery_adapter.expand import expand
from tests.plugins.adapter.conftest import filled

PLAIN = Architecture("plain", frozenset(), lambda name: Role("other"), lambda name, layer: name)
AT = "encoder.block.0.adapters.mrpc.down_sampler"


def test_one_product_by_hand():
    """[[1, 2]] ⊗ [[3], [4]] = [[3, 6], [4, 8]], which x is multiplied with from the left."""
    made = run_op(phm, {}, [torch.tensor([[[1.0, 2]]]), torch.tensor([[[3.0], [4]]])])
    assert made.tolist() == [[3, 4], [6, 8]]


@pytest.mark.parametrize("factored_rule", [False, True])
@pytest.mark.parametrize("factored", [False, True])
def test_the_linear_does_what_the_layer_did(factored, factored_rule):
    rules = [filled(4, 4, 1), filled(4, 1, 4, seed=1)] if factored_rule else [filled(4, 4, 4)]
    weights = [filled(4, 6, 2, seed=2), filled(4, 2, 3, seed=3)] if factored else [filled(4, 6, 3, seed=2)]
    weight = run_op(phm, {"rule": factored_rule, "weight": factored}, [*rules, *weights])
    A = (rules[0] @ rules[1] if factored_rule else rules[0]).double()
    W = (weights[0] @ weights[1] if factored else weights[0]).double()
    H = sum(torch.kron(one, other) for one, other in zip(A, W, strict=True))
    x = filled(5, 24, seed=4)
    assert weight.shape == (12, 24)
    torch.testing.assert_close(x @ weight.T, (x.double() @ H).float(), rtol=1e-5, atol=1e-5)


def shapes(**tensors: tuple[int, ...]):
    return view("m", {name: TensorSpec(name, shape, "F32") for name, shape in tensors.items()}, {}, PLAIN)


def plan(tensors: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """Return what each tensor is made of."""
    made = run_layout(expand, {}, [shapes(**tensors)]).tensors
    return {name: [part.name for part in getattr(piece, "parts", [piece])] for name, piece in made.items()}


def test_a_modules_own_parts_become_its_weight_and_bias():
    own = {f"{AT}.phm_rule": (2, 2, 2), f"{AT}.W": (2, 3, 4), f"{AT}.b": (8,), "shared.weight": (9, 6)}
    assert plan(own) == {
        "shared.weight": ["shared.weight"],
        f"{AT}.weight": [f"{AT}.phm_rule", f"{AT}.W"],
        f"{AT}.bias": [f"{AT}.b"],
    }


def test_what_a_module_lacks_is_its_models():
    up = AT.replace("down", "up")
    shared = {
        "phm_rule_left": (2, 2, 1),
        "phm_rule_right": (2, 1, 2),
        "W_down_left": (2, 3, 1),
        "W_down_right": (2, 1, 4),
        f"{up}.W": (2, 4, 3),
    }
    assert plan({**shared, f"{AT}.b": (8,), f"{up}.b": (6,)}) == {
        f"{AT}.weight": ["phm_rule_left", "phm_rule_right", "W_down_left", "W_down_right"],
        f"{AT}.bias": [f"{AT}.b"],
        f"{up}.weight": ["phm_rule_left", "phm_rule_right", f"{up}.W"],
        f"{up}.bias": [f"{up}.b"],
    }


def test_the_nearest_rule_above_is_taken():
    tensors = {"phm_rule": (2, 2, 2), "encoder.phm_rule": (2, 2, 2), f"{AT}.W": (2, 3, 4)}
    assert plan(tensors) == {f"{AT}.weight": ["encoder.phm_rule", f"{AT}.W"]}


def test_all_that_does_not_fit_is_told_at_once():
    up = AT.replace("down", "up")
    with pytest.raises(PlanError) as error:
        plan(
            {
                "phm_rule": (2, 2, 2),
                f"{AT}.W_left": (2, 3, 1),
                f"{AT}.W_right": (2, 5, 4),
                f"{up}.W": (2, 4, 3),
                f"{up}.weight": (6, 8),
                "x.W": (3, 4, 3),
            }
        )
    assert str(error.value).splitlines() == [
        f"{AT}: no sum of Kronecker products of phm_rule (2, 2, 2), {AT}.W_left (2, 3, 1), {AT}.W_right (2, 5, 4); "
        "the file is damaged",
        f"{up}: has `{up}.weight` beside `phm_rule`; rename one of them",
        "x: no sum of Kronecker products of phm_rule (2, 2, 2), x.W (3, 4, 3); the file is damaged",
    ]


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(PlanError) as error:
        plan({"a.weight": (2, 2), "a.W": (2, 2, 2)})
    assert (
        str(error.value)
        == "`m` has no module with `phm_rule` and `W`; give it a model that Compacter trained"
    )


def test_a_file_is_expanded_and_all_else_is_copied(tmp_path: Path):
    (tmp_path / "m").mkdir()
    tensors = {
        "phm_rule": filled(2, 2, 2),
        f"{AT}.W": filled(2, 3, 4, seed=1),
        f"{AT}.b": filled(8, seed=2),
        "encoder.final.weight": filled(6, seed=3).bfloat16(),
    }
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "t5"}')
    text = (
        "surgery: 1\nmodels: {m: ./m}\nsteps:\n  plain: {op: adapter.expand, model: m}\n"
        "output: {model: plain, to: ./out}\n"
    )
    surgery.loads(text, folder=tmp_path).run(surgery.RunOptions(device="cpu"))
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(made) == sorted([f"{AT}.weight", f"{AT}.bias", "encoder.final.weight"])
    pairs = zip(tensors["phm_rule"].double(), tensors[f"{AT}.W"].double(), strict=True)
    expected = sum(torch.kron(A, W) for A, W in pairs).T.float()
    torch.testing.assert_close(made[f"{AT}.weight"], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(made[f"{AT}.bias"], tensors[f"{AT}.b"])
    assert torch.equal(made["encoder.final.weight"], tensors["encoder.final.weight"])
