"""Where the row of each token comes from, for one model. The rules are mergekit's, in this order:

    an entry with `force` · the model's own row · an entry · the only owner's row · the base's · the mean of all
    owners' rows · zero

Rows without a token are padding: the model's own where it has padding at that place too, else the mean of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from surgery.errors import PlanError
from surgery.ops import Call, Piece, Stack, Take
from surgery_stitch._rows import mean_of_models, mean_of_rows, zero
from surgery_stitch._speaker import Speaker
from surgery_stitch._target import Target

# A row of a model, of the zeros (no name), or of the means over the models that are named.
Origin = tuple[tuple[str, ...], int]


class Rule(NamedTuple):
    """What a recipe says of one token: where its row comes from, and whether it does for models that have the token."""

    origin: Origin
    force: bool


@dataclass(slots=True)
class Choice:
    """What the rows of one model's vocabulary are: an origin for each row, None for the mean of all that have one.

    `means` holds for each set of owners the rows that are averaged, one list for each owner.
    """

    own: Speaker
    speakers: Mapping[str, Speaker]
    origins: list[Origin | None] = field(default_factory=list)
    means: dict[tuple[str, ...], list[tuple[int, ...]]] = field(default_factory=dict)

    def piece(self, slot: str) -> Piece:
        """Return the tensor that has the rows for a slot. Raises PlanError where rows do not fit together."""
        keys = list(dict.fromkeys([(self.own.name,), *(o[0] for o in self.origins if o is not None)]))
        parts = [self._part(key, slot) for key in keys]
        starts, total = {}, 0
        for key in keys:
            starts[key] = total
            total += self._length(key)
        real = [starts[origin[0]] + origin[1] for origin in self.origins if origin is not None]
        if len(real) == len(self.origins):
            return Stack(parts, real)
        mean = Call(mean_of_rows, [Stack(parts, real)])
        index = [total if origin is None else starts[origin[0]] + origin[1] for origin in self.origins]
        return Stack([*parts, mean], index)

    def _length(self, key: tuple[str, ...]) -> int:
        match len(key):
            case 0:
                return 1
            case 1:
                return self.speakers[key[0]].rows
            case _:
                return len(self.means[key])

    def _part(self, key: tuple[str, ...], slot: str) -> Piece:
        takes = [Take(name, self._checked(name, slot)) for name in key]
        if not takes:
            return Call(zero, [Take(self.own.name, self.own.tensor(slot), (0, 1))])
        if len(takes) == 1:
            return takes[0]
        rows = zip(*self.means[key], strict=True)
        return Call(mean_of_models, [Stack([t], r) for t, r in zip(takes, rows, strict=True)])

    def _checked(self, name: str, slot: str) -> str:
        """Return a model's tensor for a slot, if its rows are as long as the model's own."""
        own, other = self.own.info(slot).spec, self.speakers[name].info(slot).spec
        if own.shape[1:] != other.shape[1:]:
            raise PlanError(
                f"`{self.own.name}` and `{name}` differ at {other.name}: {own.shape} and {other.shape}; "
                "rows are taken from models of one width, give the tokens a `source` of their own"
            )
        return self.speakers[name].tensor(slot)


def choose(
    own: Speaker, speakers: Mapping[str, Speaker], target: Target, rules: Mapping[str, Rule]
) -> Choice:
    """Return where a model's rows for a vocabulary come from. `rules` are a recipe's, by token."""
    choice = Choice(own, speakers)
    tokens: list[str | None] = [None] * target.rows
    for token, i in target.ids.items():
        tokens[i] = token
    taken, key = set(own.ids.values()), (own.name,)
    for i, wanted in enumerate(tokens):
        if wanted is None:
            kept = target.padded and i < own.rows and i not in taken
            choice.origins.append((key, i) if kept else None)
        elif wanted in own.ids and wanted not in rules:  # most tokens, and there are many
            choice.origins.append((key, own.ids[wanted]))
        else:
            choice.origins.append(_origin(choice, wanted, rules))
    return choice


def _origin(choice: Choice, token: str, rules: Mapping[str, Rule]) -> Origin:
    own, rule = choice.own, rules.get(token)
    if rule is not None and rule.force:
        return rule.origin
    if token in own.ids:
        return (own.name,), own.ids[token]
    if rule is not None:
        return rule.origin
    owners = [speaker for speaker in choice.speakers.values() if token in speaker.ids]
    base = next(iter(choice.speakers.values()))
    if not owners:
        return (), 0
    if len(owners) > 1 and token not in base.ids:
        key = tuple(owner.name for owner in owners)
        rows = choice.means.setdefault(key, [])
        rows.append(tuple(owner.ids[token] for owner in owners))
        return key, len(rows) - 1
    only = base if token in base.ids else owners[0]
    return (only.name,), only.ids[token]
