"""What the engine says of ops that break their contract; the bytes of other tensors stay right."""

from __future__ import annotations

import pytest
import torch

from surgery import OpError, PluginError, ResourceError
from surgery.errors import SurgeryError

TEXTS = {
    "shape": "returned shape (11,) for a range of (12,) on w (3, 4); mend the plugin",
    "int": "returned int64, not float32, on w (3, 4); mend the plugin",
    "half": "returned float16, not float32, on w (3, 4); mend the plugin",
    "none": "returned NoneType, not a tensor, on w (3, 4); mend the plugin",
    "device": "returned a tensor on meta, not cpu, on w (3, 4); mend the plugin",
    "raise": "failed on w (3, 4): ZeroDivisionError: division by zero; see its parameters",
    "write": "writes to its inputs instead of `x.out` on w (3, 4); mend the plugin",
    "nan": "makes NaN or Inf of finite numbers in w, at element 0; check its parameters",
}
SHAPES = {
    "toy.bad": TEXTS["shape"],
    "toy.bad_rows": "returned shape (2, 4) for a range of (3, 4) on w (3, 4); mend the plugin",
    "toy.bad_tensor": "returned shape (2, 4) for w, it declared (3, 4), on w (3, 4); mend the plugin",
}


def refused(shop, steps, kind=OpError, **top) -> str:
    with pytest.raises(SurgeryError) as error:
        shop.run(steps, **top)
    assert type(error.value) is kind
    assert not (shop.folder / "out").exists()
    return str(error.value)


@pytest.mark.parametrize("how", TEXTS)
@pytest.mark.parametrize("op", SHAPES)
def test_a_result_that_breaks_the_contract_is_refused(shop, op, how):
    shop.save("a", {"w": torch.ones(3, 4)})
    text = refused(shop, {"m": {"op": op, "model": "a", "how": how}})
    assert text == f"step m: `{op}` {SHAPES[op] if how == 'shape' else TEXTS[how]}"


def test_memory_that_runs_out_is_a_matter_of_resources(shop):
    shop.save("a", {"w": torch.ones(3, 4)})
    text = refused(shop, {"m": {"op": "toy.bad", "model": "a", "how": "memory"}}, ResourceError)
    assert text == (
        "step m: `toy.bad` ran out of memory on w (3, 4); "
        "free some memory, or try `--device cpu` or fewer `--threads`"
    )


def test_float32_is_refused_where_the_numbers_are_float64(shop):
    shop.save("a", {"w": torch.ones(3, dtype=torch.float64)})
    text = refused(shop, {"m": {"op": "toy.bad", "model": "a", "how": "half"}})
    assert text == "step m: `toy.bad` returned float16, not float64, on w (3,); mend the plugin"


@pytest.mark.parametrize("part", ["scan", "gather", "fold", "solve", "apply"])
def test_every_part_of_a_reduction_may_raise(shop, part):
    shop.save("a", {"w": torch.randn(200_000)})
    text = refused(shop, {"m": {"op": "toy.bad_reduce", "model": "a", "part": part}})
    assert text == (
        f"step m: `toy.bad_reduce` failed on w (200000,): ValueError: {part} went wrong; see its parameters"
    )


def test_a_gather_that_writes_to_its_inputs_is_refused(shop):
    shop.save("a", {"w": torch.randn(10)})
    text = refused(shop, {"m": {"op": "toy.bad_reduce", "model": "a", "part": "write"}})
    assert text == f"step m: `toy.bad_reduce` {TEXTS['write'].replace('(3, 4)', '(10,)')}"


def test_a_sampling_pass_cannot_draw(shop):
    shop.save("a", {"w": torch.randn(10)})
    text = refused(shop, {"m": {"op": "toy.bad_reduce", "model": "a", "part": "draw"}}, PluginError)
    assert text == "w: the op draws in a sampling pass, whose elements have no index; let it scan all"


GROUPS = {
    "lose": "returned ['layers.0.q'], not a tensor for each of ['layers.0.k', 'layers.0.q'],",
    "extra": "returned ['layers.0.k', 'layers.0.q', 'other'], not a tensor for each of ['layers.0.k', 'layers.0.q'],",
    "list": "returned list, not a tensor for each of ['layers.0.k', 'layers.0.q'],",
    "write": "writes to its inputs instead of `x.out`",
}


@pytest.mark.parametrize("how", GROUPS)
def test_a_groups_results_are_held_to_the_contract(shop, how):
    shop.save("a", {"layers.0.q": torch.ones(2, 3), "layers.0.k": torch.ones(4)})
    text = refused(shop, {"m": {"op": "toy.share", "model": "a", "how": how}})
    assert text == f"step m: `toy.share` {GROUPS[how]} on layers.0.k (4,), layers.0.q (2, 3); mend the plugin"


def test_a_group_that_raises_names_its_members(shop):
    shop.save("a", {"layers.0.q": torch.ones(2, 3), "layers.0.k": torch.ones(4)})
    assert refused(shop, {"m": {"op": "toy.share", "model": "a", "how": "raise"}}) == (
        "step m: `toy.share` failed on layers.0.k (4,), layers.0.q (2, 3): ValueError: no such heads; "
        "see its parameters"
    )


@pytest.mark.parametrize("bad", ["toy.bad", "toy.bad_rows", "toy.bad_tensor"])
def test_an_op_that_writes_to_a_shared_input_changes_no_other_output(shop, bad):
    a = shop.save("a", {f"w{i}": torch.randn(300, 10) for i in range(4)})
    steps = {
        "x": {"op": "toy.gram", "model": "a"},
        "bad": {"op": bad, "model": "x", "how": "write", "where": "w3"},
        "good": {"op": "toy.scale", "model": "x", "factor": 3},
    }
    outputs = {name: {"model": name, "to": f"./{name}"} for name in ("bad", "good")}
    with pytest.raises(OpError, match="writes to its inputs"):
        shop.recipe(steps, outputs=outputs).run()
    # what was finished is kept; a run without the bad op must find nothing wrong in it
    del steps["bad"], outputs["bad"]
    shop.recipe(steps, outputs=outputs).run()
    kept = shop.read("good")
    shop.run(steps, to="fresh")
    fresh = shop.read("fresh")
    assert kept.keys() == a.keys()
    assert all(torch.equal(kept[name], fresh[name]) for name in a)


def test_scratch_and_out_are_the_ops_own(shop):
    a = shop.save("a", {"w": torch.randn(1000)})
    steps = {
        "x": {"op": "toy.scale", "model": "a", "factor": 1},
        "noisy": {"op": "toy.dither", "model": "x", "factor": 0},
        "both": {"op": "toy.linear", "models": {"noisy": 1, "x": 1}},
    }
    assert torch.equal(shop.run(steps)["w"], a["w"] * 2)
