"""Random graphs of steps, streamed, against the same steps on whole tensors in memory, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from surgery import RunOptions
from surgery.math.random import stream_key, uniform

Model = dict[str, torch.Tensor]

SHAPES = {
    "layers.0.q": (33, 17),
    "layers.0.k": (17, 41),
    "layers.1.q": (70, 65),
    "layers.1.bias": (301,),
    "embed": (129, 30),
    "scale": (),
}


def source(seed: int) -> Model:
    """Return a model; each tensor is of one dtype in all models, one of them float64."""
    generator = torch.Generator().manual_seed(seed)
    dtypes = [torch.bfloat16, torch.float16, torch.float32, torch.float32, torch.float64, torch.bfloat16]
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for (name, shape), dtype in zip(SHAPES.items(), dtypes, strict=True)
    }


def computed(model: Model) -> Model:
    """Return a model as ops see it."""
    return {name: t if t.dtype == torch.float64 else t.float() for name, t in model.items()}


def each(function: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[Model], Model]:
    return lambda model: {name: function(name, tensor) for name, tensor in model.items()}


def by_row(tensor: torch.Tensor) -> torch.Tensor:
    rows = tensor.reshape(tensor.shape[0] if tensor.dim() else 1, -1)
    return (rows / rows.abs().amax(1, keepdim=True)).reshape(tensor.shape)


def dithered(name: str, tensor: torch.Tensor) -> torch.Tensor:
    first, second = (
        uniform(stream_key(5, "toy.dither", name, stream), 0, torch.empty_like(tensor)) for stream in (0, 1)
    )
    return tensor.add(first.mul(-1).add_(second), alpha=0.5)


def shared(model: Model) -> Model:
    made = dict(model)
    for layer in ("layers.0.", "layers.1."):
        members = [name for name in model if name.startswith(layer)]
        mean = sum(float(model[name].double().mean()) for name in members)
        made |= {name: model[name] + mean for name in members}
    return made


def largest(model: Model) -> Model:
    peak = max(float(tensor.abs().max()) for tensor in model.values())
    times = max(float((tensor.abs() == peak).sum()) for tensor in model.values())
    numel = sum(tensor.numel() for tensor in model.values())
    return {name: tensor / peak * times + numel for name, tensor in model.items()}


def standard(model: Model) -> Model:
    made = {}
    for name, tensor in model.items():
        mean = float(tensor.sum()) / tensor.numel()
        deviation = (float((tensor - mean).square().sum()) / tensor.numel()) ** 0.5 or 1.0
        made[name] = (tensor - mean) / deviation if tensor.numel() > 1 else tensor
    return made


MATRICES = ["layers.*.q", "layers.*.k", "embed"]


def gram(tensor: torch.Tensor) -> torch.Tensor:
    wide = tensor.double()
    return (wide @ wide.T @ wide / wide.shape[0]).to(tensor.dtype)


# op -> what a step adds to it, and what it does to a whole model
ONE: dict[str, tuple[dict[str, Any], Callable[[Model], Model]]] = {
    "toy.scale": ({"factor": 0.3}, each(lambda name, t: t * 0.3)),
    "toy.sigmoid": ({}, each(lambda name, t: torch.sigmoid(t))),
    "toy.dither": ({"factor": 0.5}, each(dithered)),
    "toy.row_max": ({}, each(lambda name, t: by_row(t))),
    "toy.norm": ({}, each(lambda name, t: t / float(t.square().sum()) ** 0.5)),
    "toy.standard": ({"where": ["!scale"]}, standard),
    "toy.gram": ({"where": MATRICES}, each(lambda name, t: gram(t) if t.dim() == 2 else t)),
    "toy.share": ({}, shared),
    "toy.largest": ({}, largest),
    "toy.cut": ({"rows": [2, 16]}, each(lambda name, t: t[2:16].contiguous() if t.dim() == 2 else t)),
}
LISTS = ("toy.standard", "toy.largest")


def added(first: Model, second: Model) -> Model:
    return {name: torch.mul(first[name], 0.7).add_(second[name], alpha=0.4) for name in first}


def draw(rng: random.Random) -> tuple[dict[str, Any], dict[str, Model]]:
    """Return random steps, and what every one of them makes of the sources `a` and `b`."""
    made = {name: computed(source(seed)) for seed, name in enumerate("ab")}
    whole = {"a", "b"}  # models that no rows were taken from
    steps: dict[str, Any] = {}
    for index in range(rng.randint(3, 7)):
        name, ops = f"s{index}", [*ONE, "toy.linear", "toy.linear"]
        if "toy.gram" in [step["op"] for step in steps.values()]:
            ops.remove("toy.gram")  # once is enough: numbers grow with the third power
        op = rng.choice(ops)
        first = rng.choice(sorted(whole) if op == "toy.cut" else sorted(made))
        if op == "toy.linear":
            alike = sorted(whole if first in whole else made.keys() - whole)
            pair = sorted({first, rng.choice(alike)})
            if len(pair) == 2:
                steps[name] = {"op": op, "models": {pair[0]: 0.7, pair[1]: 0.4}}
                made[name] = added(made[pair[0]], made[pair[1]])
            else:
                steps[name] = {"op": "toy.scale", "model": first, "factor": 0.3}
                made[name] = ONE["toy.scale"][1](made[first])
        else:
            more, function = ONE[op]
            steps[name] = {"op": op, **({"models": [first]} if op in LISTS else {"model": first}), **more}
            made[name] = function(made[first])
        if first in whole and op != "toy.cut":
            whole.add(name)
    return steps, made


@pytest.mark.parametrize("seed", range(30))
def test_a_random_graph_equals_its_steps_on_whole_tensors(shop, seed):
    rng = random.Random(seed)
    for index, name in enumerate("ab"):
        shop.save(name, source(index))
    steps, made = draw(rng)
    written = rng.sample(sorted(steps), min(len(steps), 3))
    outputs = {name: {"model": name, "to": f"./out-{name}", "dtype": "float64"} for name in written}
    options = RunOptions(device="cpu", threads=rng.choice([1, 3]), chunk=rng.choice([1, 100, 1000, None]))
    shop.recipe(steps, outputs=outputs, seed=5).run(options)
    for name in written:
        result = shop.read(f"out-{name}")
        assert result.keys() == made[name].keys()
        for tensor, wanted in made[name].items():
            assert result[tensor].shape == wanted.shape, (seed, name, tensor)
            assert torch.equal(result[tensor], wanted.double()), (seed, name, tensor, steps)
