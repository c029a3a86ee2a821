"""Every split, streamed, against the same arithmetic on whole tensors in memory."""

from __future__ import annotations

import pytest
import torch

from surgery.ops import BLOCK, SAMPLE_RUN, SAMPLE_RUNS

GATHER_SPAN = 32 * BLOCK

BIG = 3 * BLOCK + 1000  # a few blocks and a rest


def blocked(x: torch.Tensor, function, fold):
    """Return what a gather finds: blocks folded in spans, spans folded in order."""
    spans = []
    for start in range(0, x.numel(), GATHER_SPAN):
        parts = [function(block) for block in x.flatten()[start : start + GATHER_SPAN].split(BLOCK)]
        total = parts[0]
        for part in parts[1:]:
            total = fold(total, part)
        spans.append(total)
    total = spans[0]
    for span in spans[1:]:
        total = fold(total, span)
    return total


def norm(x: torch.Tensor) -> torch.Tensor:
    square = blocked(
        x, lambda b: float(b.square().sum()), lambda t, p: float(torch.tensor(t) + torch.tensor(p))
    )
    return x / square**0.5


def equal(made, wanted) -> bool:
    return made.dtype == wanted.dtype and torch.equal(made, wanted)


def test_element_sees_the_same_range_of_every_input(shop):
    a = shop.save("a", {"w": [[1.0, 2.0], [3.0, 4.0]]})["w"]
    b = shop.save("b", {"w": [[10.0, 20.0], [30.0, 40.0]]})["w"]
    made = shop.run({"m": {"op": "toy.linear", "models": {"a": 2, "b": 0.5}}})
    assert made["w"].tolist() == [[7.0, 14.0], [21.0, 28.0]]
    assert equal(made["w"], 2 * a + 0.5 * b)


def test_a_tensor_of_many_chunks_is_the_whole_tensor(shop):
    a, b = (shop.save(n, {"w": torch.randn(BIG)})["w"] for n in "ab")
    made = shop.run({"m": {"op": "toy.linear", "models": {"a": 0.7, "b": 0.3}}})
    assert equal(made["w"], torch.mul(a, 0.7).add_(b, alpha=0.3))


def test_a_chain_of_element_ops_rounds_once(shop):
    a = shop.save("a", {"w": torch.randn(1000).bfloat16()})["w"]
    made = shop.run(
        {
            "x": {"op": "toy.scale", "model": "a", "factor": 1.1},
            "y": {"op": "toy.scale", "model": "x", "factor": 1.3},
            "z": {"op": "toy.delta", "model": "y", "base": "a"},
        }
    )
    assert equal(made["w"], (a.float() * 1.1 * 1.3 - a.float()).bfloat16())


def test_row_ops_see_whole_rows(shop):
    a = shop.save("a", {"w": torch.randn(70, 13), "v": torch.randn(5), "s": torch.tensor(3.0)})
    made = shop.run({"m": {"op": "toy.row_max", "model": "a"}})
    assert equal(made["w"], a["w"] / a["w"].abs().amax(1, keepdim=True))
    assert equal(made["v"], a["v"] / a["v"].abs())
    assert made["s"].item() == 1.0


def test_a_row_may_be_longer_than_a_chunk(shop):
    a = shop.save("a", {"w": torch.randn(3, BLOCK + 777)})["w"]
    made = shop.run({"m": {"op": "toy.row_max", "model": "a"}})
    assert equal(made["w"], a / a.abs().amax(1, keepdim=True))


def test_row_ops_are_told_where_their_rows_begin(shop):
    a, b = (shop.save(n, {"w": torch.randn(500, 300)})["w"] for n in "ab")
    made = shop.run({"m": {"op": "toy.row_index", "model": "a", "base": "b"}})
    assert equal(made["w"], a + b[:, :1] + torch.arange(500.0)[:, None])


@pytest.mark.parametrize("numel", [10, BLOCK, BIG, GATHER_SPAN + 5 * BLOCK + 3])
def test_reduce_folds_blocks_in_a_fixed_order(shop, numel):
    a = shop.save("a", {"w": torch.rand(numel) + 0.5})["w"]
    assert equal(shop.run({"m": {"op": "toy.norm", "model": "a"}})["w"], norm(a))


def test_the_order_of_the_fold_shows_in_the_last_bits(shop):
    x = torch.rand(2 * GATHER_SPAN) + 0.5
    squares = [float(block.square().sum()) for block in x.split(BLOCK)]
    straight = torch.tensor(0.0)
    for square in squares:
        straight += square
    assert not torch.equal(norm(x), x / float(straight) ** 0.5)


def test_reduce_gathers_twice(shop):
    a, b = (shop.save(n, {"w": torch.randn(BIG)})["w"] for n in "ab")
    x = a + b

    def add(total, part):
        return total + part

    mean = blocked(x, lambda block: float(block.sum()), add) / BIG
    variance = blocked(x, lambda block: float((block - mean).square().sum()), add) / BIG
    made = shop.run({"m": {"op": "toy.standard", "models": ["a", "b"]}})
    assert equal(made["w"], (x - mean) / variance**0.5)


def sample(x: torch.Tensor) -> torch.Tensor:
    """Return runs of neighbours, each somewhere else in its share of the tensor; all of a small tensor."""
    share = x.numel() // SAMPLE_RUNS
    if share <= SAMPLE_RUN:
        return x
    starts = [j * share + j * 0x9E3779B1 % (share - SAMPLE_RUN) for j in range(SAMPLE_RUNS)]
    return torch.cat([x[start : start + SAMPLE_RUN] for start in starts])


@pytest.mark.parametrize("numel", [100, SAMPLE_RUNS * SAMPLE_RUN, SAMPLE_RUNS * (SAMPLE_RUN + 1), BIG])
def test_reduce_samples_runs_spread_over_the_tensor(shop, numel):
    a = shop.save("a", {"w": torch.randn(numel)})["w"]
    largest = float(sample(a).max())
    made = shop.run({"m": {"op": "toy.sampled", "model": "a"}})
    assert equal(made["w"], a / (largest * float((a >= largest).sum())))


def test_a_sample_has_the_same_runs_of_every_input(shop):
    a = shop.save("a", {"w": torch.randn(BIG)})["w"]
    b = shop.save("b", {"w": torch.randn(BIG)})["w"]
    largest = float(sample(a - b).max())
    made = shop.run({"m": {"op": "toy.sampled", "model": "a", "base": "b"}})
    assert equal(made["w"], a / (largest * float((a - b >= largest).sum())))


def test_a_sample_of_rows_and_of_what_an_op_makes(shop):
    a = shop.save("a", {"w": torch.randn(600, 701)})["w"]
    steps = {
        "c": {"op": "toy.cut", "model": "a", "rows": [100, 500]},
        "m": {"op": "toy.sampled", "model": "c"},
        "x": {"op": "toy.scale", "model": "m", "factor": 2},
        "n": {"op": "toy.sampled", "model": "x"},
    }
    x = a[100:500]
    for factor in (1, 2):
        x = x * factor
        largest = float(sample(x.flatten()).max())
        x = x / (largest * float((x >= largest).sum()))
    assert equal(shop.run(steps)["w"], x)


def test_reduce_over_element_over_reduce(shop):
    a = shop.save("a", {"w": torch.randn(BIG)})["w"]
    made = shop.run(
        {
            "x": {"op": "toy.norm", "model": "a"},
            "y": {"op": "toy.scale", "model": "x", "factor": 3},
            "z": {"op": "toy.norm", "model": "y"},
        }
    )
    assert equal(made["w"], norm(norm(a) * 3))


def test_reduce_over_row_reads_rows_that_blocks_cut(shop):
    a = shop.save("a", {"w": torch.randn(700, 601)})["w"]
    made = shop.run(
        {"x": {"op": "toy.row_max", "model": "a"}, "y": {"op": "toy.norm", "model": "x"}},
    )
    assert equal(made["w"], norm(a / a.abs().amax(1, keepdim=True)))


def test_row_over_reduce_over_element(shop):
    a, b = (shop.save(n, {"w": torch.randn(701, 601)})["w"] for n in "ab")
    made = shop.run(
        {
            "x": {"op": "toy.linear", "models": {"a": 1, "b": 2}},
            "y": {"op": "toy.norm", "model": "x"},
            "z": {"op": "toy.row_max", "model": "y"},
        },
    )
    x = norm(a.clone().add_(b, alpha=2))
    assert equal(made["w"], x / x.abs().amax(1, keepdim=True))


def gram(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return (wide @ wide.T @ wide / wide.shape[0]).to(x.dtype)


def test_tensor_in_the_middle_of_a_chain(shop):
    a = shop.save("a", {"w": torch.randn(90, 130)})["w"]
    made = shop.run(
        {
            "x": {"op": "toy.scale", "model": "a", "factor": 0.1},
            "y": {"op": "toy.gram", "model": "x"},
            "z": {"op": "toy.scale", "model": "y", "factor": 2},
            "n": {"op": "toy.norm", "model": "z"},
        }
    )
    assert equal(made["w"], norm(gram(a * 0.1) * 2))


def test_tensor_takes_several_models_and_a_base(shop):
    a, b, c = (shop.save(n, {"w": torch.randn(40, 30).bfloat16()})["w"].double() for n in "abc")
    made = shop.run({"m": {"op": "toy.solve", "models": ["a", "b"], "base": "c"}})
    wanted = c + (a - c) @ torch.ones(30, 30, dtype=torch.float64) - b / 3
    assert torch.equal(made["w"].double(), wanted.float().bfloat16().double())


def test_tensor_may_change_the_shape_and_return_a_view(shop):
    a = shop.save("a", {"w": torch.randn(6, 5)})["w"]
    made = shop.run({"x": {"op": "toy.transpose", "model": "a"}, "y": {"op": "toy.row_max", "model": "x"}})
    assert equal(made["w"], (a.T / a.T.abs().amax(1, keepdim=True)).contiguous())


def test_tensor_over_tensor(shop):
    a = shop.save("a", {"w": torch.randn(20, 30)})["w"]
    made = shop.run({"x": {"op": "toy.transpose", "model": "a"}, "y": {"op": "toy.gram", "model": "x"}})
    assert equal(made["w"], gram(a.T.contiguous()))


def layers(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = [f"layers.{layer}.{part}" for layer in range(2) for part in ("q", "k")]
    tensors = {name: torch.randn(8, 6, generator=generator) for name in names}
    return tensors | {"norm": torch.randn(6, generator=generator)}


def shared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = dict(tensors)
    for layer in ("layers.0.", "layers.1."):
        members = [name for name in tensors if name.startswith(layer)]
        mean = sum(float(tensors[name].double().mean()) for name in members)
        made |= {name: tensors[name] + mean for name in members}
    return made


def test_group_sees_its_members_and_feeds_element(shop):
    a = shop.save("a", layers(0))
    made = shop.run(
        {"x": {"op": "toy.share", "model": "a"}, "y": {"op": "toy.scale", "model": "x", "factor": 2}}
    )
    assert made.keys() == a.keys()
    assert all(equal(made[name], wanted * 2) for name, wanted in shared(a).items())


def test_group_over_reduce_over_group(shop):
    a = shop.save("a", layers(0))
    made = shop.run(
        {
            "x": {"op": "toy.share", "model": "a"},
            "y": {"op": "toy.norm", "model": "x"},
            "z": {"op": "toy.share", "model": "y"},
        }
    )
    wanted = shared({name: norm(values) for name, values in shared(a).items()})
    assert all(equal(made[name], values) for name, values in wanted.items())


def largest(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    peak = max(float(values.abs().max()) for values in tensors.values())
    times = max(
        float((block.abs() == peak).sum()) for t in tensors.values() for block in t.flatten().split(BLOCK)
    )
    numel = sum(values.numel() for values in tensors.values())
    return {name: values / peak * times + numel for name, values in tensors.items()}


def test_model_gathers_over_all_tensors_first(shop):
    a = shop.save("a", layers(0) | {"big": torch.randn(BIG), "none": torch.zeros(0, 4)})
    made = shop.run({"m": {"op": "toy.largest", "models": ["a"]}})
    wanted = largest({name: values for name, values in a.items() if values.numel()})
    assert all(equal(made[name], values) for name, values in wanted.items())
    assert made["none"].shape == (0, 4)


@pytest.mark.parametrize("below", ["toy.norm", "toy.gram", "toy.share", "toy.scale", "toy.row_max"])
def test_model_gathers_over_what_other_ops_make(shop, below):
    a = shop.save("a", {name: values for name, values in layers(0).items() if name != "norm"})
    made = shop.run({"x": {"op": below, "model": "a"}, "m": {"op": "toy.largest", "models": ["x"]}})
    functions = {
        "toy.norm": norm,
        "toy.gram": gram,
        "toy.scale": lambda x: x * 1.0,
        "toy.row_max": lambda x: x / x.abs().amax(1, keepdim=True),
    }
    apply = functions.get(below)
    wanted = largest({name: apply(values) for name, values in a.items()} if apply else shared(a))
    assert all(equal(made[name], values) for name, values in wanted.items())


def test_a_model_op_may_gather_layer_by_layer(shop):
    a = {name: values for name, values in layers(0).items() if values.numel()}
    shop.save("a", a)
    made = shop.run({"m": {"op": "toy.layer_largest", "models": ["a"]}})
    pools: dict[str, dict[str, torch.Tensor]] = {}
    for name, values in a.items():
        layer = name.split(".")[1] if name.startswith("layers.") else "outside"
        pools.setdefault(layer, {})[name] = values
    assert len(pools) > 2
    wanted = {name: values for pool in pools.values() for name, values in largest(pool).items()}
    assert all(equal(made[name], values) for name, values in wanted.items())


def test_model_over_model(shop):
    a = shop.save("a", layers(0))
    made = shop.run(
        {
            "x": {"op": "toy.largest", "models": ["a"]},
            "y": {"op": "toy.scale", "model": "x", "factor": 2},
            "z": {"op": "toy.largest", "models": ["y"]},
        }
    )
    wanted = largest({name: values * 2 for name, values in largest(a).items()})
    assert all(equal(made[name], values) for name, values in wanted.items())


def test_rows_of_a_tensor_in_a_file_are_copied(shop):
    a = shop.save("a", {"w": torch.randn(10, 3).half(), "i": torch.arange(20).view(10, 2)})
    made = shop.run({"m": {"op": "toy.cut", "model": "a", "rows": [2, 7]}})
    assert equal(made["w"], a["w"][2:7])
    assert equal(made["i"], a["i"][2:7])


@pytest.mark.parametrize("below", ["toy.scale", "toy.norm", "toy.row_max", "toy.gram", "toy.share"])
def test_rows_of_what_any_op_makes(shop, below):
    a = shop.save("a", {"layers.0.w": torch.randn(11, 7)})["layers.0.w"]
    made = shop.run(
        {
            "x": {"op": below, "model": "a"},
            "y": {"op": "toy.cut", "model": "x", "rows": [3, 9]},
            "z": {"op": "toy.norm", "model": "y"},
        }
    )
    functions = {
        "toy.scale": lambda x: x * 1.0,
        "toy.norm": norm,
        "toy.row_max": lambda x: x / x.abs().amax(1, keepdim=True),
        "toy.gram": gram,
        "toy.share": lambda x: x + float(x.double().mean()),
    }
    assert equal(made["layers.0.w"], norm(functions[below](a)[3:9].contiguous()))


def test_row_ops_work_on_rows_of_rows(shop):
    a = shop.save("a", {"w": torch.randn(500, 301)})["w"]
    made = shop.run(
        {
            "x": {"op": "toy.row_max", "model": "a"},
            "y": {"op": "toy.cut", "model": "x", "rows": [7, 480]},
            "z": {"op": "toy.row_max", "model": "y"},
        }
    )
    assert equal(made["w"], (a / a.abs().amax(1, keepdim=True))[7:480])


def test_draws_depend_on_the_element_alone(shop):
    a = shop.save("a", {"w": torch.zeros(BIG), "v": torch.zeros(BIG)})
    steps = {"m": {"op": "toy.dither", "model": "a"}}
    made = shop.run(steps)
    assert made["w"].abs().max() < 1
    assert made["w"].mean().abs() < 0.01
    assert 0.3 < made["w"].std() < 0.5
    assert not torch.equal(made["w"], made["v"])
    shorter = shop.save("a", {"w": torch.zeros(1000)})
    again = shop.run(steps, to="again")
    assert torch.equal(again["w"], made["w"][: len(shorter["w"])])
    other = shop.run(steps, to="other", seed=1)
    assert not torch.equal(other["w"], again["w"])
    assert a["w"].count_nonzero() == 0


@pytest.mark.parametrize(
    "op", ["toy.scale", "toy.row_max", "toy.norm", "toy.standard", "toy.gram", "toy.sampled"]
)
def test_a_tensor_without_elements_is_written_without_asking_the_op(shop, op):
    a = shop.save("a", {"w": torch.ones(2, 3), "empty": torch.zeros(0, 3)})
    key = {"models": ["a"]} if op == "toy.standard" else {"model": "a"}
    where = {"where": ["empty"]}
    made = shop.run({"m": {"op": op, **key, **where}})
    assert made["empty"].shape == (0, 3)
    assert equal(made["w"], a["w"])


def test_a_whole_tensor_returned_in_the_engines_buffer_lasts_until_it_is_used(shop):
    a = shop.save("a", {"w": torch.randn(BIG), "u": torch.randn(40, 50)})
    steps = {"n": {"op": "toy.negative", "model": "a"}, "s": {"op": "toy.scale", "model": "n", "factor": 2}}
    made = shop.run(steps)
    assert all(equal(made[name], -2 * a[name]) for name in a)
