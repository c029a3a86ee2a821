"""What stands beside the models of a step, tensor by tensor: found, held to its shape, and missed aloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from surgery.companion import Beside
from surgery.errors import PluginError
from surgery.ops import Params, Signature, Space, Split
from surgery.plan.nodes import Emitted, Node
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import DTYPES, TensorSpec

# A file does not tell that it holds statistics: what is read from one counts as weights.
_TAKEN = (Space.STATISTIC, Space.WEIGHT)
_STREAMED = frozenset({Split.ELEMENT, Split.ROW, Split.REDUCE, Split.MODEL})

Found = tuple[TensorSpec, Node]


@dataclass(slots=True)
class Companions:
    """The companions of a step's models, by the parameter that names them.

    `wanted` counts the tensors that should have one, `had` those that each model has one of; `lacked` are the names of
    those that not all models have one of, with the first holder that lacks it.
    """

    step: ResolvedStep
    held: Beside[VirtualModel]
    problems: Problems
    wanted: dict[str, int] = field(default_factory=dict)
    had: dict[tuple[str, int], int] = field(default_factory=dict)
    lacked: dict[str, dict[str, str]] = field(default_factory=dict)

    def check_spaces(self) -> None:
        """Refuse what is neither weights, as files are, nor statistics."""
        for key, holders in self.held.items():
            for index, holder in enumerate(holders):
                if holder is not None and holder.space not in _TAKEN:
                    what = f"`{holder.name}` holds {holder.space.value}s, `{key}` takes statistics"
                    self.problems.add(
                        self._path(key, index), f"{what}; name a checkpoint or a step that makes them"
                    )

    def of(
        self, signature: Signature, params: Params, split: Split
    ) -> tuple[Beside[TensorSpec], Beside[Node]]:
        """Return what stands beside the models of a tensor: specs and nodes, None where there is nothing."""
        specs: dict[str, tuple[TensorSpec | None, ...]] = {}
        nodes: dict[str, tuple[Node | None, ...]] = {}
        for key, holders in self.held.items():
            found = self._row(key, holders, signature, params, split)
            specs[key] = tuple(one[0] if one else None for one in found)
            nodes[key] = tuple(one[1] if one else None for one in found)
        return specs, nodes

    def _row(
        self,
        key: str,
        holders: Sequence[VirtualModel | None],
        signature: Signature,
        params: Params,
        split: Split,
    ) -> list[Found | None]:
        """Return the companions of a tensor, one for each model that has the tensor."""
        places = [signature.place(index) for index in range(len(signature.models))]
        shape = self.step.op.companions[key].shape(signature, params)
        if shape is None:
            return [None] * len(places)
        if split in _STREAMED and shape != signature.first.shape:
            raise PluginError(
                f"op `{self.step.op.name}`: companion `{key}` of a {split.value} op has the tensor's shape, got "
                f"{shape} for {signature.first.shape}; declare split=Split.TENSOR"
            )
        self.wanted[key] = self.wanted.get(key, 0) + 1
        found = [self._find(key, place, holders[place], signature.name, shape) for place in places]
        for place, one in zip(places, found, strict=True):
            self.had[key, place] = self.had.get((key, place), 0) + (one is not None)
            holder = holders[place]
            if one is None and holder is not None:
                self.lacked.setdefault(key, {}).setdefault(signature.name, holder.name)
        return found

    def _find(
        self, key: str, place: int, holder: VirtualModel | None, name: str, shape: tuple[int, ...]
    ) -> Found | None:
        node, info = (holder.node(name), holder.info(name)) if holder else (None, None)
        if holder is None or node is None or info is None:
            return None
        kind = wrong = ""
        if isinstance(node, Emitted) or not DTYPES[info.spec.dtype].arithmetic:
            kind, wrong = (
                "dtype",
                f"is stored as {info.spec.dtype}, no arithmetic is defined on it; store it as float32",
            )
        elif info.spec.shape != shape:
            kind, wrong = (
                "shape",
                f"is {info.spec.shape}, the `{key}` of this tensor is {shape}; take that of a model of this shape",
            )
        if wrong:
            what = f"{name} of `{holder.name}` {wrong}"
            self.problems.add_tensor(self._path(key, place), kind, what, name)
        return info.spec, node

    def close(self) -> None:
        """Tell what was missed: an error where a holder has nothing, or where the op cannot do without."""
        for key, count in self.wanted.items():
            empty = [
                place
                for place, holder in enumerate(self.held[key])
                if holder and not self.had.get((key, place))
            ]
            for place in empty:
                holder = self.held[key][place]
                assert holder is not None
                what = f"`{holder.name}` has none of the {count} tensors of `{self.step.models[place]}` that need one"
                first = next(iter(self.lacked[key]))
                advice = f"name its tensors like the model's: {first}"
                self.problems.add(self._path(key, place), f"{what}; {advice}")
            if self.lacked.get(key) and not empty:
                self._tell(key, count, self.lacked[key])

    def _tell(self, key: str, count: int, lacked: Mapping[str, str]) -> None:
        name, holder = next(iter(lacked.items()))
        path, without = ("steps", self.step.name), self.step.op.companions[key].without
        what = f"{len(lacked)} of {count} tensors have no `{key}` in every model, {name} is missing in `{holder}`"
        if without:
            self.problems.warn(path, f"{what}: they are {without}")
        else:
            self.problems.add(path, f"{what}; add them, or leave the tensors out with `where:`")

    def _path(self, key: str, place: int) -> tuple[str | int, ...]:
        return ("steps", self.step.name, "models", self.step.models[place], key)
