"""What an adapter does to each tensor of its base, from headers: what fits nowhere is never left out in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from surgery.checkpoint.base import Checkpoint
from surgery.errors import Finding, PlanError
from surgery.tensors import DTYPES, TensorSpec
from surgery_hf.peft_config import Config
from surgery_hf.peft_formula import Formula
from surgery_hf.peft_keys import Part, parse_keys, prefix_rule
from surgery_hf.peft_lora import Update
from surgery_hf.peft_module import DoesNotFit, Kind, Module


@dataclass(frozen=True, slots=True)
class Edit:
    """What becomes of one tensor of the base: an adapter's tensor in its place, then an update."""

    replacement: str | None = None
    update: Formula | None = None


@dataclass(slots=True)
class _Problems:
    """What is wrong, one line for each kind: its first tensor, and how many more there are."""

    folder: Path
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, tensor: str, what: str) -> None:
        """Note what is wrong with a tensor; `what` may say `{tensor}`."""
        self.found.setdefault(what, []).append(tensor)

    def raise_any(self) -> None:
        """Raise PlanError with all findings, if there are any."""
        if self.found:
            raise PlanError([Finding(self._line(what, tensors)) for what, tensors in self.found.items()])

    def _line(self, what: str, tensors: Sequence[str]) -> str:
        head, _, advice = what.partition("; ")
        more = f" (and {len(tensors) - 1} more such tensors)" if len(tensors) > 1 else ""
        return f"{self.folder}: {tensors[0]}: {head}{more}; {advice}"


def edits_of(folder: Path, adapter: Checkpoint, config: Config, base: Checkpoint) -> dict[str, Edit]:
    """Return what becomes of the base's tensors, by name. Raises PlanError with all that does not fit."""
    return _Edits(folder, adapter, config, base).all()


class _Edits:
    def __init__(self, folder: Path, adapter: Checkpoint, config: Config, base: Checkpoint) -> None:
        self.specs, self.base, self.kind = adapter.tensors, base, config.kind
        self.said, self.config = config.said, config.scales
        self.problems = _Problems(folder)
        self.edits: dict[str, Edit] = {}
        self.rule = ("", "")

    def all(self) -> dict[str, Edit]:
        """Return the edits, or raise all findings."""
        shared = self.kind.shared if self.kind else ()
        names = [name for name in self.specs if name not in shared]
        keys = parse_keys(names, self.kind.suffixes if self.kind else ())
        for name in keys.unknown:
            self.problems.add(name, "is not a name that peft gives; only what is understood is folded")
        places = self.kind.integers if self.kind else ()
        for name, spec in self.specs.items():
            if not DTYPES[spec.dtype].arithmetic and not name.endswith(places):
                self.problems.add(name, f"is stored as {spec.dtype}; adapters are folded from floats")
        targets = [self._target(module, parts) for module, parts in keys.modules.items()]
        self.rule = prefix_rule(targets, self.base.tensors)
        for module, parts in keys.modules.items():
            self._module(module, parts)
        self._check_shared()
        self.problems.raise_any()
        return self.edits

    def _target(self, module: str, parts: Mapping[str, str]) -> str:
        """Return the tensor that a module is about first of all: its weight, or its bias if that is all there is."""
        only_bias = set(parts) <= {Part.BIAS, Part.BASE_BIAS, Part.BIAS_OF_B}
        return f"{module}.bias" if only_bias else f"{module}.weight"

    def _ours(self, name: str) -> str:
        old, new = self.rule
        return new + name.removeprefix(old)

    def _module(self, module: str, parts: Mapping[str, str]) -> None:
        weight = parts.get(Part.BASE_WEIGHT, parts.get(Part.WEIGHT))
        bias = parts.get(Part.BASE_BIAS, parts.get(Part.BIAS))
        update, shift = self._changes(module, parts)
        if weight or update:
            self._put(f"{module}.weight", Edit(weight, update))
        if bias or shift:
            self._put(f"{module}.bias", Edit(bias, shift))

    def _changes(self, module: str, parts: Mapping[str, str]) -> tuple[Formula | None, Formula | None]:
        """Return what becomes of a module's weight and bias, besides being replaced."""
        if self.kind is not None:
            return self._other(self.kind, module, parts)
        shift = parts.get(Part.BIAS_OF_B)
        return self._update(module, parts), Update(shift, self.config.scale_of(module)) if shift else None

    def _other(
        self, kind: Kind, module: str, parts: Mapping[str, str]
    ) -> tuple[Formula | None, Formula | None]:
        """Return what an adapter of another kind than LoRA does, or note what does not fit."""
        own = {end: name for end, name in parts.items() if end in kind.suffixes}
        if not own:
            return None, None
        name = self._ours(f"{module}.weight")
        weight = self.base.tensors.get(name)
        if weight is None:
            self.problems.add(next(iter(own.values())), self._missing(name))
            return None, None
        try:
            found = kind.changes(Module(module, own, self.specs, weight, self.said, self.config))
        except DoesNotFit as misfit:
            self.problems.add(misfit.tensor, misfit.what)
            return None, None
        except (
            ValueError,
            IndexError,
        ):  # the kinds' rules take shapes apart, whose numbers are those of whole files
            shapes = ", ".join(str(self.specs[part].shape) for part in own.values())
            what = f"tensors of the shapes {shapes} have not the dimensions of `{kind.name}`"
            self.problems.add(next(iter(own.values())), f"{what}; save the adapter again")
            return None, None
        biased = self._ours(f"{module}.bias") in self.base.tensors
        return found.weight, found.bias if biased else None

    def _update(self, module: str, parts: Mapping[str, str]) -> Update | None:
        """Return the update of a module's weight; None if there is none, or after noting that it is incomplete."""
        magnitude = parts.get(Part.MAGNITUDE, parts.get(Part.OLD_MAGNITUDE))
        embedded = Part.EMBEDDING_A in parts or Part.EMBEDDING_B in parts
        pair = (Part.EMBEDDING_A, Part.EMBEDDING_B) if embedded else (Part.A, Part.B)
        present = [parts[part] for part in pair if part in parts]
        lone = magnitude or parts.get(Part.BIAS_OF_B)
        if len(present) < 2:
            if present or lone:
                what = f"stands without its `{pair[0].value[1:]}` and `{pair[1].value[1:]}`"
                self.problems.add(present[0] if present else str(lone), f"{what}; save the adapter again")
            return None
        transposed = embedded or self.config.transposed
        if self.config.dora != (magnitude is not None):
            said = (
                "but the config says `use_dora: true`" if self.config.dora else "but the config says no DoRA"
            )
            has = "has a" if magnitude else "has no"
            self.problems.add(present[0], f"{has} `lora_magnitude_vector`, {said}; save the adapter again")
        return Update(present[1], self.config.scale_of(module), present[0], transposed, magnitude)

    def _put(self, theirs: str, edit: Edit) -> None:
        """Note the edit of a tensor after holding it against the base's header."""
        name = self._ours(theirs)
        spec = self.base.tensors.get(name)
        first = _first(edit)
        if spec is None:
            self.problems.add(first, self._missing(name))
            return
        if not DTYPES[spec.dtype].arithmetic:
            what = f"the base stores {name} as {spec.dtype}, a fold is defined on floats only"
            self.problems.add(first, f"{what}; dequantize the base first")
            return
        if edit.replacement is not None and self.specs[edit.replacement].shape != spec.shape:
            got = self.specs[edit.replacement].shape
            self.problems.add(
                first, f"is to replace {name}, got shapes {got} and {spec.shape}; fold into its base"
            )
        if isinstance(edit.update, Update):
            self._check_update(theirs.rpartition(".")[0], spec, edit.update)
        self.edits[name] = edit

    def _missing(self, name: str) -> str:
        if name in self._shared():
            return self._tied(name)
        if name.endswith(".bias"):
            return "the base has no such bias; fold it into the base that it was trained on"
        return "the base has no such tensor; fold it into the base that it was trained on"

    def _check_update(self, module: str, spec: TensorSpec, update: Update) -> None:
        """Note shapes that do not multiply to the base's, and ranks other than the config's."""
        rows, columns = (spec.shape[0], math.prod(spec.shape[1:])) if spec.shape else (1, 1)
        out, into = (columns, rows) if update.transposed else (rows, columns)
        b = self.specs[update.b].shape
        if update.a is None:
            if b != spec.shape:
                self.problems.add(
                    update.b, f"has shape {b}, the base's bias {spec.shape}; fold into its base"
                )
            return
        a = self.specs[update.a].shape
        rank = self.config.rank_of(module)
        if a[:1] != (rank,) or len(b) < 2 or b[1:] != (rank, *(1,) * (len(b) - 2)):
            what = f"factors have shapes {a} and {b}, the config says rank {rank}"
            self.problems.add(update.a, f"{what}; the config belongs to another adapter")
        elif (b[0], math.prod(a[1:])) != (out, into):
            layout = "[in, out] as `fan_in_fan_out` says" if self.config.transposed else "[out, in]"
            what = f"factors {a} and {b} do not fit the base's {spec.shape}, read as {layout}"
            self.problems.add(update.a, f"{what}; fold it into the base that it was trained on")
        if update.magnitude and math.prod(self.specs[update.magnitude].shape) != out:
            got = self.specs[update.magnitude].shape
            self.problems.add(update.magnitude, f"has shape {got} for {out} rows; save the adapter again")

    def _shared(self) -> dict[str, str]:
        """Return the tensors that are one with another: aliases, and the head of a base that ties it."""
        from surgery.plan.virtual import text_config
        from surgery_hf.architectures import ARCHITECTURES

        shared = dict(self.base.aliases)
        if text_config(self.base.config).get("tie_word_embeddings"):
            pairs = [pair for architecture in ARCHITECTURES for pair in architecture.tied.items()]
            shared |= {head: embed for head, embed in pairs if head not in self.base.tensors}
        shared = {alias: name for alias, name in shared.items() if name in self.base.tensors}
        return shared | {name: alias for alias, name in shared.items()}

    def _tied(self, name: str) -> str:
        other = self._shared()[name]
        return f"changes {name}, which is one tensor with {other}; save the base with the two apart first"

    def _check_shared(self) -> None:
        """Refuse to change one of two names of a tensor: the other one must keep its values."""
        shared = self._shared()
        for name, edit in self.edits.items():
            if name in shared:
                self.problems.add(_first(edit), self._tied(name))


def _first(edit: Edit) -> str:
    """Return the adapter's tensor that messages about an edit name."""
    return edit.replacement or (edit.update.parts()[0] if edit.update else "")
