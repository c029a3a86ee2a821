"""Holds an op to the laws of the contract on one set of inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor

from surgery.errors import PluginError
from surgery.ops import BASE, Op, Params, Reduce, Split
from surgery.tensors import Role
from surgery.testing.runner import concrete, run_op


@dataclass(frozen=True, slots=True)
class Identity:
    """Parameters that mean "nothing": the result is then the bytes of an input (BASE, or a model's index)."""

    params: Mapping[str, Any] = field(default_factory=dict)
    each: Sequence[Mapping[str, Any]] | None = None
    gives: int = 0


@dataclass(frozen=True, slots=True)
class OpCase:
    """An op with inputs; `check()` raises AssertionError naming the law that the op breaks.

    expected          the result, compared within `tolerance` (absolute) in float64
    identity          parameters that make the op return an input's bytes
    scale_equivariant multiplying every input by 4 multiplies the result by 4, to the last bit
    permutable        permuting every input along its first dimension permutes the result, within `tolerance`
    role, statistics  what the op is told of the tensor, and of activations
    companions        what stands beside each model, by name: a list with None where there is nothing
    chunks            sizes that the op's work is cut into: elements, or rows for a ROW op
    """

    op: Op
    params: Mapping[str, Any] = field(default_factory=dict)
    models: Sequence[Any] = ()
    base: Any = None
    each: Sequence[Mapping[str, Any]] | None = None
    expected: Any = None
    identity: Sequence[Identity] = ()
    scale_equivariant: bool = False
    permutable: bool = False
    tolerance: float = 1e-6
    chunks: Sequence[int] = (1, 3, 1000)
    seed: int = 0
    role: Role | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    companions: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Run every law that applies."""
        whole = self._run()
        self._check_expected(whole)
        again = self._run()
        self._require("the same bytes twice", same_bytes(whole, again), again, whole)
        self._check_chunks(whole)
        self._check_fold()
        self._check_identity()
        self._check_scale(whole)
        self._check_permutation(whole)
        self._check_parameters()
        self._check_accelerator(whole)

    def _run(self, **changes: Any) -> Tensor:
        told: dict[str, Any] = {"role": self.role, "companions": self._companions()}
        told["statistics"] = {k: torch.as_tensor(v) for k, v in self.statistics.items()}
        settings = {"models": self._models(), "base": self._base(), "seed": self.seed} | told | changes
        params, each = settings.pop("params", self.params), settings.pop("each", self.each)
        try:
            return run_op(self.op, params, each=each, **settings)
        except PluginError as error:
            raise AssertionError(str(error)) from error

    def _models(self) -> list[Tensor]:
        return [torch.as_tensor(model) for model in self.models]

    def _companions(self, order: Tensor | None = None) -> dict[str, tuple[Tensor | None, ...]]:
        """Return the companions; along with a permuted tensor those of its shape are permuted too."""

        def given(one: Any) -> Tensor | None:
            tensor = None if one is None else torch.as_tensor(one)
            same = tensor is not None and tensor.shape == self._models()[0].shape
            return tensor[order] if tensor is not None and order is not None and same else tensor

        return {name: tuple(given(one) for one in row) for name, row in self.companions.items()}

    def _base(self) -> Tensor | None:
        return None if self.base is None else torch.as_tensor(self.base)

    def _require(self, law: str, holds: bool, found: object, wanted: object) -> None:
        if not holds:
            raise AssertionError(f"{self.op.name}: {law}: got {found} for {wanted}")

    def _check_expected(self, whole: Tensor) -> None:
        if self.expected is not None:
            wanted = torch.as_tensor(self.expected, dtype=torch.float64)
            self._require("the expected numbers", self._close(whole, wanted), whole, wanted)

    def _check_chunks(self, whole: Tensor) -> None:
        if self.op.split_of(concrete(self.op.params, self.params)) in (Split.TENSOR, Split.GROUP):
            return
        for size in self.chunks:
            cut = self._run(chunk=size)
            self._require(f"cut into {size} = whole", same_bytes(cut, whole), cut, whole)

    def _check_fold(self) -> None:
        """Fold the blocks one by one, and in spans as workers and processes do; blocks are small, to be many."""
        if isinstance(self.op.implementation, Reduce):
            block = max(1, self._models()[0].numel() // 7)
            one_by_one, in_spans = self._run(block=block), self._run(block=block, span=3)
            same = same_bytes(one_by_one, in_spans)
            self._require("blocks folded in spans = one by one", same, in_spans, one_by_one)

    def _check_identity(self) -> None:
        for identity in self.identity:
            each = self.each if identity.each is None else identity.each
            result = self._run(params={**self.params, **identity.params}, each=each)
            source = self._base() if identity.gives == BASE else self._models()[identity.gives]
            assert source is not None
            named = "base" if identity.gives == BASE else f"model {identity.gives}"
            same = same_bytes(result, source.to(result.dtype))
            self._require(f"identity gives the bytes of the {named}", same, result, source)

    def _check_scale(self, whole: Tensor) -> None:
        if self.scale_equivariant:
            base = self._base()
            models = [model * 4 for model in self._models()]
            scaled = self._run(models=models, base=None if base is None else base * 4)
            self._require("scale equivariance", same_bytes(scaled, whole * 4), scaled, whole * 4)

    def _check_permutation(self, whole: Tensor) -> None:
        if self.permutable and whole.dim():
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
            base = self._base()
            permuted = self._run(
                models=[model[order] for model in self._models()],
                base=None if base is None else base[order],
                companions=self._companions(order),
            )
            same = self._close(permuted, whole[order].double())
            self._require("permuting the inputs permutes the result", same, permuted, whole[order])

    def _check_parameters(self) -> None:
        given = [self.op.params.model_validate(self.params)]
        if self.op.each:
            given += [self.op.each.model_validate(entry) for entry in self.each or ()]
        for params in given:
            plain = params.model_dump(mode="json", by_alias=True)
            for law, again in (
                ("parameters survive JSON", json.loads(json.dumps(plain))),
                ("parameters survive YAML", yaml.safe_load(yaml.safe_dump(plain, sort_keys=False))),
            ):
                back: Params = type(params).model_validate(again)
                self._require(law, back == params, repr(back), repr(params))

    def _check_accelerator(self, whole: Tensor) -> None:
        if torch.cuda.is_available():
            there = self._run(device="cuda")
            self._require("accelerator = CPU", self._close(there, whole.double()), there, whole)

    def _close(self, result: Tensor, wanted: Tensor) -> bool:
        if result.shape != wanted.shape:
            return False
        return bool(
            torch.allclose(result.double(), wanted, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
        )


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits: -0 is not 0, a NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(left, right)
