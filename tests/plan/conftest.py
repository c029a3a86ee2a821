"""Plans of checkpoints in memory, each filled with a number of its own. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.host import Host
from surgery.ops import BASE, Params, Reduce, Split, op
from surgery.plan.model import Plan
from surgery.plan.resolve import resolve
from surgery.recipe.load import parse_recipe
from surgery.scalars import Scalar

_names = itertools.count()

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": False}


class Weight(Params):
    """Parameters of each model."""

    weight: Scalar = 1.0


class Amount(Params):
    """Parameters of the toy ops."""

    amount: Scalar = 1.0


def _same_if_zero(signature: Any, params: Any) -> int | None:
    return BASE if params.amount == 0 else None


@op("toy.mix", each=Weight, propagates=True)
def mix(x, p):
    """Sum of models."""
    return sum(m * e.weight for m, e in zip(x.models, x.signature.each, strict=True))


@op("toy.toward", params=Amount, base="required", simplify=_same_if_zero)
def toward(x, p):
    """Move from the base."""
    return x.base + p.amount * (x.models[0] - x.base)


@op("toy.scale", params=Amount, models=1, vectors="skip")
def scale(x, p):
    """Scale matrices."""
    return x.models[0] * p.amount


@op("toy.whole", split=Split.TENSOR, models=1)
def whole(x, p):
    """Look at a whole tensor."""
    return x.models[0].flip(0)


class PeakOf(Reduce):
    """Divide by the largest magnitude of what is gathered."""

    def gather(self, x, p, found):
        """Return a block's largest magnitude."""
        return float(x.models[0].abs().max())

    def fold(self, total, part):
        """Return the larger one."""
        return max(total, part)

    def apply(self, x, p, found):
        """Divide a range."""
        return x.models[0] / found * p.amount


@op("toy.peak", split=Split.MODEL, params=Amount, each=Weight)
class Peak(PeakOf):
    """Divide by the largest magnitude of the model."""


def _layer(signature: Any, params: Any) -> int | None:
    return signature.role.layer  # type: ignore[no-any-return]


@op("toy.layer_peak", split=Split.MODEL, params=Amount, each=Weight, pool=_layer)
class LayerPeak(PeakOf):
    """Divide by the largest magnitude of the layer."""


TOYS = {o.name: o for o in (mix, toward, scale, whole, Peak, LayerPeak)}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that knows the toy ops besides what is installed."""
    made = Host()
    known = made.op
    monkeypatch.setattr(made, "op", lambda name: TOYS.get(name) or known(name))
    return made


@pytest.fixture
def memory() -> Callable[..., str]:
    """Registers a checkpoint and returns its source: `memory:NAME`."""

    def register(shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32, **rest: Any) -> str:
        number = next(_names)
        name = f"m{number}"
        config = rest.pop("config", LLAMA)
        tensors = {key: np.full(shape, number % 100, dtype) for key, shape in shapes.items()}
        register_memory(name, MemoryCheckpoint(tensors, config, **rest))
        return f"memory:{name}"

    return register


LAYERS = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.layers.1.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}


@pytest.fixture
def plan(host: Host, memory: Callable[..., str]) -> Callable[..., Plan]:
    """Resolves a recipe's steps over models `a`, `b`, `c` of the same shapes, unless others are given."""

    def make(steps: str, output: str = "{model: m}", extra: str = "", **models: str) -> Plan:
        named = {name: memory(LAYERS) for name in "abc"} | models
        sources = ", ".join(f"{name}: '{source}'" for name, source in named.items())
        key = "outputs" if output.startswith("{x:") else "output"
        text = f"surgery: 1\nmodels: {{{sources}}}\nsteps:\n{steps}\n{key}: {output}\n{extra}"
        return resolve(parse_recipe(text), host, write=False)

    return make
