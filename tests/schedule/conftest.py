"""Plans of checkpoints that are specs only: nothing here needs torch, and nothing is ever read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pytest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.memory import register_memory
from surgery.host import Host
from surgery.ops import Group, Layout, Params, Reduce, Split, Take, layout_op, op
from surgery.plan.model import Plan
from surgery.plan.resolve import resolve
from surgery.recipe.load import parse_recipe
from surgery.tensors import TensorSpec

_numbers = itertools.count()


class Paper(Checkpoint):
    """A checkpoint on paper."""

    aliases: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}
    sidecars: Mapping[str, Any] = {}

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str, whole: int = 0) -> None:
        self.tensors = {name: TensorSpec(name, shape, dtype) for name, shape in shapes.items()}
        self._whole = whole

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        raise AssertionError("a schedule reads nothing")

    def extent(self, name: str) -> Extent | None:
        return None

    def identity(self, name: str) -> bytes:
        raise AssertionError("a schedule needs no digests")

    def whole_file_bytes(self) -> int:
        return self._whole


class Rows(Params):
    rows: tuple[int, int] = (0, 1)


def unread(*args: Any) -> Any:
    raise AssertionError("a schedule computes nothing")


@op("toy.add", buffers=3)
def add(x, p):
    """Add."""
    return unread()


@op("toy.near", base="required", models=1)
def near(x, p):
    """Take a base."""
    return unread()


@op("toy.rows", split=Split.ROW, models=1)
def rows(x, p):
    """See rows."""
    return unread()


@op("toy.whole", split=Split.TENSOR)
def whole(x, p):
    """See a whole tensor."""
    return unread()


@op("toy.thrifty", split=Split.TENSOR, workspace=lambda signature, params: 1000)
def thrifty(x, p):
    """See a whole tensor, with few temporaries."""
    return unread()


class Gathers(Reduce):
    """Gather."""

    def gather(self, x, p, found):
        return unread()

    def apply(self, x, p, found):
        return unread()


@op("toy.once")
class Once(Gathers):
    """Gather once."""


@op("toy.twice")
class Twice(Gathers):
    """Gather twice."""

    gathers = 2


@op("toy.model", split=Split.MODEL)
class Model(Gathers):
    """Gather over the model."""


@op("toy.layer", models=1)
class Layer(Group):
    """See a layer."""

    def key(self, tensor, p) -> Hashable | None:
        return tensor.role.layer

    def apply(self, members, p):
        return unread()


@layout_op("toy.cut", params=Rows, models=1)
def cut(models, p):
    """Take rows."""
    ((name, view),) = models.items()
    return Layout({tensor: Take(name, tensor, p.rows) for tensor in view.tensors}, {})


TOYS = {o.name: o for o in (add, near, rows, whole, thrifty, Once, Twice, Model, Layer, cut)}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Resolves steps over models `a` and `b` of some shapes; the last step is written, or each of `outputs`."""

    def make(
        steps: str,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        outputs: str = "",
        stored: str = "F32",
        whole: int = 0,
        **output: Any,
    ) -> Plan:
        host = Host()
        monkeypatch.setattr(host, "op", TOYS.get)
        sources = []
        for name in "ab":
            paper = f"paper{next(_numbers)}"
            register_memory(paper, Paper(shapes, stored, whole))
            sources.append(f"{name}: 'memory:{paper}'")
        last = steps.strip().splitlines()[-1].partition(":")[0].strip() if steps.strip() else "a"
        extra = "".join(f", {key}: {value}" for key, value in output.items())
        written = f"outputs: {outputs}" if outputs else f"output: {{model: {last}{extra}}}"
        text = f"surgery: 1\nmodels: {{{', '.join(sources)}}}\n"
        text += f"steps:\n{steps}\n" if steps.strip() else ""
        return resolve(parse_recipe(text + written + "\n"), host, write=False)

    return make
