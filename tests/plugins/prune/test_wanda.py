"""prune.wanda: hand values, laws, and a plain implementation with hooks on the whole model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import surgery
from surgery import OpError, PlanError, RecipeError, RunOptions
from surgery.ops import Need
from surgery.tensors import Role
from surgery.testing import run_op
from surgery_prune.wanda import wanda

ZOO = Path(__file__).parents[3] / "recipes" / "zoo"
W = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
NORMS = [1.0, 10.0, 1.0, 0.1]  # scores 3, 10, 2, 0.4


def pruned(weights=W, norms=NORMS, tokens=100, **params):
    squares = torch.as_tensor(norms, dtype=torch.float64).square()
    statistics = {Need.SQUARES: squares, Need.TOKENS: torch.tensor([float(tokens)], dtype=torch.float64)}
    return run_op(
        wanda, params, [weights], name="layers.0.w.weight", role=Role("mlp.up", 0), statistics=statistics
    )


def test_two_of_four_are_kept_by_weight_times_norm():
    assert pruned(pattern="2:4").tolist() == [[3, 1, 0, 0]]


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.25, [3, 1, 2, 0]),
        (0.5, [3, 1, 0, 0]),
        (0.74, [3, 1, 0, 0]),
        (0.75, [0, 1, 0, 0]),
        (1.0, [0, 0, 0, 0]),
    ],
)
def test_of_each_row_the_share_rounded_down_is_dropped(sparsity, expected):
    assert pruned(sparsity=sparsity).tolist() == [expected]


def test_half_is_the_default_and_rows_do_not_compete():
    weights = torch.tensor([[1.0, 2.0], [30.0, 40.0]])
    assert pruned(weights, [1.0, 1.0]).tolist() == [[0, 2], [0, 40]]


def test_equal_inputs_are_magnitude():
    assert pruned(norms=[5.0] * 4).tolist() == [[3, 0, 0, 4]]


def test_of_equal_scores_those_of_the_lower_index_stay():
    assert pruned(torch.tensor([[1.0, -1.0, 1.0, 1.0]]), [2.0] * 4).tolist() == [[1, -1, 0, 0]]


def test_an_input_that_is_always_zero_goes_first():
    assert pruned(torch.tensor([[100.0, 1.0]]), [0.0, 1.0]).tolist() == [[0, 1]]


@pytest.mark.parametrize(("tokens", "expected"), [(0, [3, 0, 0, 4]), (1, [3, 1, 0, 0])])
def test_what_saw_fewer_tokens_than_a_quarter_of_its_inputs_is_pruned_by_magnitude(tokens, expected):
    assert pruned(tokens=tokens).tolist() == [expected]


@given(st.integers(0, 2**31), st.sampled_from([2.0**-20, 7.0, 1e6]))
def test_the_scale_of_the_inputs_does_not_matter_and_rows_may_be_permuted(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 16, generator=generator)
    norms = torch.rand(16, generator=generator, dtype=torch.float64) + 0.1
    once = pruned(weights, norms)
    assert ((once == 0).sum(1) == 8).all()
    assert torch.equal(once, pruned(weights, norms * scale))
    order = torch.randperm(6, generator=generator)
    assert torch.equal(pruned(weights[order], norms), once[order])


@pytest.mark.parametrize(
    ("shape", "role", "said"),
    [
        (
            (2, 6),
            Role("mlp.up", 0),
            "6 inputs do not divide into groups of 4; leave the tensor out with `where:`",
        ),
        (
            (2, 4, 4),
            Role("experts.up", 0),
            "(2, 4, 4) is no single Linear's [out, in]; leave the tensor out with `where:`",
        ),
    ],
)
def test_what_cannot_be_pruned_is_named(shape, role, said):
    with pytest.raises(OpError) as error:
        run_op(wanda, {"pattern": "2:4"}, [torch.ones(shape)], name="layers.0.w.weight", role=role)
    assert str(error.value) == f"layers.0.w.weight: {said}"


def recipe(folder: Path, step: dict, to: str = "out") -> surgery.LoadedRecipe:
    document = {
        "surgery": 1,
        "models": {"base": str(ZOO / "base")},
        "calibration": {"text": str(ZOO / "calibration.txt"), "samples": 4, "length": 48},
        "steps": {"lean": {"op": "prune.wanda", "model": "base", **step}},
        "output": {"model": "lean", "to": to},
    }
    return surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=folder)


@torch.no_grad()
def plainly(ids: torch.Tensor, group: int | None) -> dict[str, torch.Tensor]:
    """Prune block after block of the whole model, with hooks as in the paper's code."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32).eval()
    for block in model.model.layers:
        squares: dict = {}
        linears = [module for module in block.modules() if isinstance(module, torch.nn.Linear)]

        def see(module, args, squares=squares):
            squares[module] = squares.get(module, 0) + args[0].flatten(0, -2).double().square().sum(0)

        hooks = [linear.register_forward_pre_hook(see) for linear in linears]
        for row in ids:
            model(row[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        for linear in linears:
            rows = (linear.weight.abs() * squares[linear].sqrt().float()).reshape(
                -1, group or linear.in_features
            )
            lowest = torch.sort(rows, dim=1, stable=True).indices[:, : rows.shape[1] // 2]
            linear.weight.copy_(
                linear.weight.reshape(rows.shape).scatter(1, lowest, 0.0).view(linear.weight.shape)
            )
    return model.state_dict()


@pytest.mark.parametrize(("step", "group"), [({}, None), ({"pattern": "2:4"}, 4)])
def test_masks_are_those_of_a_plain_implementation_on_the_whole_model(tmp_path, step, group):
    from surgery.calibrate.prepare import prepare
    from surgery.plan.calibration import calibrations_of

    loaded = recipe(tmp_path, step)
    loaded.run(RunOptions(device="cpu", threads=2))
    made = load_file(tmp_path / "out" / "model.safetensors")
    nodes = [tensor.node for tensor in loaded.resolve(write=False).plan.outputs[0].tensors]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = plainly(prepare(calibrations_of(nodes)[0]).ids, group)
    torch.set_num_threads(before)
    total = wrong = 0
    for name, tensor in made.items():
        total += tensor.numel()
        wrong += int(((tensor == 0) != (expected[name] == 0)).sum())
        kept = tensor != 0
        assert torch.equal(
            tensor[kept & (expected[name] != 0)].float(), expected[name][kept & (expected[name] != 0)]
        )
    assert wrong <= 1e-5 * total  # scores that are equal but for the last bit of a sum
    mlp = made["model.layers.3.mlp.down_proj.weight"]
    assert ((mlp == 0).sum(1) == 160).all()


def test_only_linears_of_blocks_are_pruned_and_the_head_if_asked_for(tmp_path):
    recipe(tmp_path, {}).run(RunOptions(device="cpu"))
    dense, lean = (load_file(folder / "model.safetensors") for folder in (ZOO / "base", tmp_path / "out"))
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(dense[name], lean[name])
    recipe(tmp_path, {"targets": "all", "where": "lm_head.weight"}, to="head").run(RunOptions(device="cpu"))
    head = load_file(tmp_path / "head" / "model.safetensors")
    assert ((head["lm_head.weight"] == 0).sum(1) == 64).all()
    assert torch.equal(head["model.layers.0.mlp.up_proj.weight"], dense["model.layers.0.mlp.up_proj.weight"])


def test_both_kinds_of_amount_at_once_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="both `sparsity` and `pattern`; keep one"):
        recipe(tmp_path, {"sparsity": 0.5, "pattern": "2:4"}).resolve()


def test_a_model_without_tokenizer_is_refused(tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(ZOO / "base", bare, ignore=shutil.ignore_patterns("tokenizer*"))
    loaded = recipe(tmp_path, {})
    text = loaded.recipe.text.replace(str(ZOO / "base"), str(bare))
    with pytest.raises(
        PlanError, match=r"`prune.wanda` runs the model on text, .*bare has no tokenizer; add its files"
    ):
        surgery.loads(text, folder=tmp_path).resolve()
