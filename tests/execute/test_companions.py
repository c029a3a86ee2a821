"""What stands beside models: the numbers of whole tensors in memory, however the work is cut, and in every digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import surgery
from surgery import CheckpointError, OpError, RunOptions
from surgery.ops import BLOCK
from surgery.plan.nodes import Digests
from surgery.schedule.jobs import make_jobs

OPS = Path(__file__).with_name("companion_ops.py")
ROWS, WIDTH = 40, 2 * BLOCK // 40 + 7  # more than a block, cut across rows
CPU = RunOptions(device="cpu", threads=2, force=True)


@pytest.fixture
def near(shop):
    """Run or plan steps over `a`, `b` and `base` with `fa` and `fb` beside them; `fb` has no `v`."""
    tensors = {name: {"w": torch.randn(ROWS, WIDTH), "v": torch.randn(300)} for name in ("a", "b", "base")}
    tensors |= {
        "fa": {"w": torch.rand(ROWS, WIDTH), "v": torch.rand(300)},
        "fb": {"w": torch.rand(ROWS, WIDTH)},
    }
    for name, held in tensors.items():
        shop.save(name, held)

    def make(step, options=CPU, **top):
        document = shop.document({"m": step}, **top)
        recipe = surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=shop.folder, plugins=[OPS])
        if options is None:
            return recipe.resolve(write=False).plan
        recipe.run(options)
        return shop.read()

    make.tensors, make.shop = tensors, shop
    return make


BOTH = {"a": {"by": "fa"}, "b": {"by": "fb"}}


@pytest.mark.parametrize("split", ["element", "row", "tensor"])
@pytest.mark.parametrize("base", [None, "base"])
def test_each_model_is_seen_with_what_stands_beside_it(near, split, base):
    step = {"op": "near.sum", "split": split, "models": BOTH} | ({"base": base} if base else {})
    made, t = near(step), near.tensors
    expected = sum(t[n]["w"] * t[f"f{n}"]["w"] for n in "ab")
    assert torch.equal(made["w"], expected + t["base"]["w"] if base else expected)


@pytest.mark.parametrize("split", ["element", "row", "tensor"])
def test_a_model_without_the_companion_sees_none_in_its_place(near, split):
    made, t = near({"op": "near.sum", "split": split, "models": BOTH}), near.tensors
    assert torch.equal(made["v"], t["a"]["v"] * t["fa"]["v"] + t["b"]["v"])
    alone = near({"op": "near.sum", "split": split, "models": {"a": None, "b": {"by": "fb"}}})
    assert torch.equal(alone["w"], t["a"]["w"] + t["b"]["w"] * t["fb"]["w"])


def test_gathers_see_them_over_a_tensor_or_the_model(near):
    t = near.tensors
    largest = {key: max(float(t[f]["w"].max()) for f in ("fa", "fb")) for key in ("w",)}
    largest["v"] = float(t["fa"]["v"].max())
    tensor = near({"op": "near.norm", "split": "reduce", "models": BOTH})
    model = near({"op": "near.norm", "split": "model", "models": BOTH})
    for key in ("w", "v"):
        assert torch.equal(tensor[key], t["a"][key] * largest[key])
        assert torch.equal(model[key], t["a"][key] * max(largest.values()))


def test_a_whole_matrix_may_have_another_shape_beside_it(near):
    near.shop.save("c", {"w": torch.eye(3, 4)})
    near.shop.save("fc", {"w": torch.full((4, 4), 2.0)})
    made = near({"op": "near.square", "models": {"c": {"by": "fc"}}})
    assert made["w"].tolist() == [[2.0] * 4] * 3


def test_what_stands_beside_a_model_may_be_a_steps_result(near):
    steps = {
        "half": {"op": "near.sum", "models": {"fa": None}},
        "m": {"op": "near.sum", "models": {"a": {"by": "half"}}},
    }
    document = near.shop.document(steps)
    surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=near.shop.folder, plugins=[OPS]).run(CPU)
    assert torch.equal(near.shop.read()["w"], near.tensors["a"]["w"] * near.tensors["fa"]["w"])


def test_the_bytes_do_not_depend_on_the_number_of_workers(near):
    step = {"op": "near.norm", "split": "model", "models": BOTH}
    near(step)
    before = near.shop.data()
    near(step, RunOptions(device="cpu", threads=1, force=True))
    assert near.shop.data() == before


def test_other_bytes_beside_a_model_are_another_digest(near):
    def digest(**changes):
        plan = near({"op": "near.sum", "models": BOTH | changes}, None)
        nodes = {tensor.spec.name: tensor.node for tensor in plan.outputs[0].tensors}
        return Digests().of(nodes["w"])

    first = digest()
    assert digest() == first
    assert digest(b={"by": "fa"}) != first
    save_file({"w": near.tensors["fb"]["w"] + 1}, near.shop.folder / "fb" / "model.safetensors")
    assert digest() != first


def test_who_lacks_a_companion_is_part_of_the_digest(near):
    """The inputs are a, b and fa's tensor both times, and the recipe is the same: only the places tell them apart."""
    held, empty = near.tensors["fa"], {"v": near.tensors["fa"]["v"]}
    found = set()
    for first, second in ((held, empty), (empty, held)):
        near.shop.save("fa", first)
        near.shop.save("fb", second)
        plan = near({"op": "near.sum", "models": {"a": {"by": "fa"}, "b": {"by": "fb"}}}, None)
        node = next(tensor.node for tensor in plan.outputs[0].tensors if tensor.spec.name == "w")
        assert len(node.beside) == 1
        found.add(Digests().of(node))
    assert len(found) == 2


def test_reads_and_memory_count_them(near):
    with_them, without = (
        make_jobs(near({"op": "near.sum", "split": split, "models": models}, None).outputs, 1 << 16)
        for split, models in (("tensor", BOTH), ("tensor", {"a": None, "b": None}))
    )
    size = 4 * ROWS * WIDTH
    assert sum(job.reads for job in with_them) - sum(job.reads for job in without) == 2 * size + 4 * 300
    assert max(job.held for job in with_them) - max(job.held for job in without) == 4 * 2 * size


def test_nan_beside_a_model_is_found_in_its_file(near):
    held = near.tensors["fa"]
    held["w"][3, 5] = torch.nan
    near.shop.save("fa", held)
    with pytest.raises(
        CheckpointError, match=r"fa/model.safetensors: w holds 1 NaN or Inf, first at element "
    ):
        near({"op": "near.sum", "models": BOTH})


def test_an_op_that_writes_to_what_stands_beside_is_refused(near):
    with pytest.raises(OpError) as error:
        near({"op": "near.writes", "models": {"a": {"by": "fa"}}, "where": "v"})
    assert str(error.value) == (
        "step m: `near.writes` writes to its inputs instead of `x.out` on v (300,); mend the plugin"
    )


def test_the_card_names_no_statistics_among_the_parents(near):
    near({"op": "near.sum", "models": BOTH})
    card = (near.shop.folder / "out" / "README.md").read_text()
    assert "| `a` |" in card
    assert "| `fa` |" not in card
    manifest = (near.shop.folder / "out" / "surgery.json").read_text()
    assert '"fa"' in manifest
