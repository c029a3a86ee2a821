from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

COUNTS = "18 the same, 1 with other values, 1 with another shape, 1 only in a"


@pytest.fixture
def edited(work):
    """A copy of `base` in which one tensor is doubled, one is cut and one is missing."""
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    tensors = load(work / "base" / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"][:4].clone()
    del tensors["lm_head.weight"]
    (work / "edited").mkdir()
    save(tensors, work / "edited" / "model.safetensors")
    return "edited"


def test_a_checkpoint_is_identical_to_itself(surgery, work):
    result = surgery("diff", "base", "base", "--exit-code")
    assert (result.exit_code, result.stdout) == (
        0,
        "identical: 21 tensors with the same names, shapes, dtypes and bytes\n",
    )


def test_differences_are_listed_the_gravest_first(surgery, work, edited):
    result = surgery("diff", "base", edited)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["tensor", "difference", "relative", "max", "mean", "elements"],
        ["lm_head.weight", "only", "in", "a"],
        ["model.layers.0.mlp.up_proj.weight", "shape", "32", "x", "16", "and", "4", "x", "16"],
        ["model.norm.weight", "values", "1", *stats(work), "100.00", "%"],
        [],
        ["21", "tensors:", *COUNTS.split()],
    ]


def stats(work) -> list[str]:
    """Return the largest and the mean gap of a doubled tensor: its own values."""
    from safetensors.torch import load_file as load

    norm = load(work / "base" / "model.safetensors")["model.norm.weight"].double().abs()
    return [f"{norm.max():.3g}", f"{norm.mean():.3g}"]


def test_the_exit_code_is_3_when_asked_for(surgery, work, edited):
    assert surgery("diff", "base", edited, "--exit-code").exit_code == 3
    assert surgery("diff", "base", edited, "--exit-code", "--json").exit_code == 3


def test_only_the_top_is_listed(surgery, work):
    lines = surgery("diff", "base", "code", "--top", "2").stdout.splitlines()
    assert len(lines) == 6
    assert lines[3:] == ["and 19 tensors more; --top 0 lists all", "", "21 tensors: 21 with other values"]
    assert len(surgery("diff", "base", "code", "--top", "0").stdout.splitlines()) == 1 + 21 + 2


def test_json_lists_every_tensor(surgery, work, edited):
    data = json.loads(surgery("diff", "base", edited, "--json").stdout)
    assert (data["a"], data["b"], data["identical"]) == ("base", "edited", False)
    assert data["counts"] == {"shape": 1, "only in a": 1, "values": 1, "same": 18}
    tensors = {tensor["name"]: tensor for tensor in data["tensors"]}
    assert tensors["lm_head.weight"] == {
        "name": "lm_head.weight",
        "kind": "only in a",
        "a": {"shape": [32, 16], "dtype": "BF16"},
        "b": None,
    }
    norm = tensors["model.norm.weight"]
    assert (norm["relative"], norm["share"], norm["nonfinite"]) == (1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("differing", "text"), [(1, "< 0.01 %"), (100, "0.10 %"), (99_999, "> 99.99 %"), (100_000, "100.00 %")]
)
def test_a_share_is_never_rounded_to_none_or_all(surgery, tmp_path, differing, text):
    values = np.zeros(100_000, np.float32)
    save_file({"w": values}, tmp_path / "a.safetensors")
    values[:differing] = 1
    save_file({"w": values}, tmp_path / "b.safetensors")
    row = surgery("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").stdout.splitlines()[1]
    assert row.startswith("w       values           inf    1  ")
    assert row.endswith(f"  {text}")


def test_gaps_that_are_not_finite_are_named(surgery, tmp_path):
    save_file({"w": np.array([1, np.nan], np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.array([1, 2], np.float32)}, tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors")["w"][1] == 2
    row = surgery("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").stdout.splitlines()[1]
    assert "values, 1 gap not finite" in row


def test_what_is_no_checkpoint_is_2(surgery, work):
    result = surgery("diff", "base", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: nowhere: there is no such file or folder")
