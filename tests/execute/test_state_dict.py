from __future__ import annotations

import pytest
import torch

import surgery
from surgery import OpError
from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.ops import BLOCK


@pytest.fixture
def control(shop):
    """A file that tells the slow op not to wait, and counts its chunks."""
    path = shop.folder / "control"
    path.write_text("0 0 SIGINT")
    return path


def computed(control) -> int:
    log = control.with_name("control.log")
    return log.stat().st_size if log.exists() else 0


def steps(control) -> dict:
    return {
        "slow": {"op": "toy.slow", "model": "a", "control": str(control)},
        "largest": {"op": "toy.largest", "models": ["slow"]},
        "normed": {"op": "toy.norm", "model": "largest"},
        "gram": {"op": "toy.gram", "model": "normed", "where": "re:w"},
        "end": {"op": "toy.share", "model": "gram"},
    }


def test_every_tensor_equals_that_of_the_written_file(shop, control):
    shop.save("a", {f"layers.{i}.w": torch.randn(40 + i, 700) for i in range(3)} | {"ids": torch.arange(5)})
    recipe = shop.recipe(steps(control), dtype="bfloat16")
    torch.set_num_threads(4)
    lazy = surgery.state_dict(recipe)
    everything = dict(lazy)
    assert torch.get_num_threads() == 4
    shop.run(steps(control), dtype="bfloat16")
    written = shop.read()
    assert set(lazy) == set(written)
    assert len(lazy) == 4
    for name, tensor in everything.items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name])


def test_nothing_is_computed_before_it_is_asked_for(shop, control):
    shop.save("a", {"v": torch.randn(10), "w": torch.randn(10)})
    lazy = surgery.state_dict(shop.recipe({"m": {"op": "toy.slow", "model": "a", "control": str(control)}}))
    assert list(lazy) == ["v", "w"]
    assert computed(control) == 0
    assert torch.equal(lazy["w"], shop.read("a")["w"] * 2)
    assert computed(control) == 1


def test_what_a_model_op_finds_is_found_once(shop, control):
    shop.save("a", {name: torch.randn(10) for name in "uvw"})
    two = {name: step for name, step in steps(control).items() if name in ("slow", "largest")}
    two["again"] = {"op": "toy.largest", "models": ["largest"]}
    lazy = surgery.state_dict(shop.recipe(two))
    first = lazy["u"]
    gathered = computed(control)
    # two passes of each op over all tensors, then one chunk
    assert gathered == 2 * 3 + 2 * 3 + 1
    lazy["v"]
    assert computed(control) == gathered + 1
    assert torch.equal(lazy["u"], first)


def test_an_inner_model_op_that_is_known_serves_an_outer_one(shop):
    shop.save("a", {"v": torch.randn(10), "w": torch.randn(10)})
    two = {
        "inner": {"op": "toy.largest", "models": ["a"]},
        "outer": {"op": "toy.largest", "models": ["inner"], "where": "w"},
    }
    lazy = surgery.state_dict(shop.recipe(two))
    made = {"v": lazy["v"], "w": lazy["w"]}
    written = shop.run(two)
    assert all(torch.equal(made[name], written[name]) for name in written)


def test_the_first_of_several_outputs_is_given(shop):
    a = shop.save("a", {"w": torch.randn(4)})
    both = {
        "x": {"op": "toy.scale", "model": "a", "factor": 2},
        "y": {"op": "toy.scale", "model": "a", "factor": 3},
    }
    outputs = {name: {"model": name} for name in both}
    assert torch.equal(surgery.state_dict(shop.recipe(both, outputs=outputs))["w"], a["w"] * 2)


def test_no_place_to_write_is_needed_and_nothing_is_written(shop):
    shop.save("a", {"w": torch.randn(4)})
    surgery.state_dict(shop.recipe({}, output={"model": "a"}))["w"]
    assert [path.name for path in shop.folder.iterdir()] == ["a"]


def test_a_recipe_may_be_a_file(shop):
    a = shop.save("a", {"w": torch.randn(4)})
    path = shop.write({}, output={"model": "a"})
    assert torch.equal(surgery.state_dict(path)["w"], a["w"])


def test_bytes_come_in_every_shape_and_dtype():
    tensors = {
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "flag": torch.tensor([True]),
        "fp8": torch.arange(6, dtype=torch.uint8).view(torch.float8_e4m3fn).view(2, 3),
        "fp4": torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).view(2, 3),
        "big": torch.arange(3 * BLOCK),
    }
    register_memory("kinds", MemoryCheckpoint(tensors))
    lazy = surgery.state_dict(surgery.loads("surgery: 1\nmodels: {a: 'memory:kinds'}\noutput: {model: a}"))
    for name, wanted in tensors.items():
        made = lazy[name]
        assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
        plain = torch.uint8 if wanted.dim() else wanted.dtype
        assert torch.equal(made.view(plain), wanted.view(plain))


def test_what_is_not_there_is_a_key_error(shop):
    shop.save("a", {"w": torch.randn(4)})
    lazy = surgery.state_dict(shop.recipe({}, output={"model": "a"}))
    assert "v" not in lazy
    with pytest.raises(KeyError):
        lazy["v"]


def test_errors_are_those_of_a_run(shop):
    shop.save("a", {"w": torch.tensor([1e6])})
    lazy = surgery.state_dict(shop.recipe({"m": {"op": "toy.scale", "model": "a"}}, dtype="float16"))
    with pytest.raises(OpError, match="w: 1e\\+06 at element 0 is too large for float16"):
        lazy["w"]
