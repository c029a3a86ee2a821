"""One candidate that was tried: a record that goes into the journal and comes out of it unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import xxhash

from surgery.recipe.document import Document
from surgery.search.space import SEARCH_KEY, Genome

Kind = Literal["baseline", "trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate and what became of it.

    number    its place among all candidates, from 0
    name      what a baseline is called; `trial 7` for the seventh proposal
    id        digest of the plain recipe: equal ids are scored once
    genome    values of the genes; None for baselines that are other recipes
    seed      of the sampler
    score     None if it could not be scored; then `failure` says why
    parts     further numbers from the evaluator
    cost      seconds: plan, weights, evaluate
    loaded    tensors that were computed and copied
    wall      seconds since the search (or its resumption) began
    made      digest of the tensors and files that it makes: equal ones are scored once; None if it has no plan
    same      the number of the earlier candidate that makes the same, whose score it has
    """

    number: int
    kind: Kind
    name: str
    id: str
    genome: Genome | None
    seed: int
    score: float | None = None
    failure: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    loaded: int = 0
    wall: float = 0.0
    made: str | None = None
    same: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the journal's line as plain data."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Trial:
        """Return the trial that a line says. Raises KeyError, TypeError or ValueError for another kind of line."""
        given = {one.name: record[one.name] for one in fields(cls)}
        if record.keys() != given.keys() or given["kind"] not in ("baseline", "trial"):
            raise ValueError("not a trial")
        genome = given["genome"]
        return cls(**{**given, "genome": None if genome is None else tuple(genome)})


def recipe_id(document: Document) -> str:
    """Return the digest of what a plain recipe makes: of all it says but where it writes and how it was found."""
    data = {key: value for key, value in document.data.items() if key != SEARCH_KEY}
    output = {key: value for key, value in data["output"].items() if key not in ("to", "shard_size")}
    return xxhash.xxh3_128_hexdigest(json.dumps({**data, "output": output}).encode())
