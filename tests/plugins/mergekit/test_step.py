"""Values from all scopes against mergekit's rules, written down once more and as plainly as they are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from surgery.recipe.select import compile_selector
from surgery.recipe.yaml import read_documents
from surgery.scalars import Scalar, resolve
from surgery.tensors import Role, TensorInfo, TensorSpec
from surgery_mergekit import surgery_read_recipe

SCALAR = TypeAdapter(Scalar)
NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.1.self_attn.k_proj.bias",
]
DEPTHS = [0.0, 0.0, 0.0, 1.0, 1.0]

numbers = st.integers(-8, 8).map(lambda n: n / 4)
gradients = st.lists(numbers, min_size=1, max_size=3)
plain = numbers | gradients
filters = st.sampled_from(["mlp", "self_attn", "proj", "layers.1", "weight", "bias", "*", None, "nowhere"])
entries = st.fixed_dictionaries({"value": plain}, optional={"filter": filters})
values = plain | entries | st.lists(entries, min_size=1, max_size=4)


def at(value: float | list[float], depth: float) -> float:
    """Return a gradient's value at one of its ends: depths in between are looked at elsewhere."""
    return value[-1 if depth else 0] if isinstance(value, list) else value


def said(scope: Any, name: str) -> Any:
    """Return what a scope says of a tensor; None if nothing."""
    if not isinstance(scope, dict) and not (isinstance(scope, list) and isinstance(scope[0], dict)):
        return scope
    for entry in scope if isinstance(scope, list) else [scope]:
        wanted = entry.get("filter")
        if wanted in (None, "*") or wanted in name:
            return entry["value"]
    return None


def ours(scopes: tuple[Any, ...]) -> Any:
    """Return the number, ramp or map of selectors that our recipe has."""
    model, module, top = ({} if scope is None else {"parameters": {"weight": scope}} for scope in scopes)
    document = {"merge_method": "linear", **top}
    document["modules"] = {"default": {"models": [{"model": "a", **model}], **module}}
    documents = read_documents(yaml.safe_dump(document))
    made = surgery_read_recipe(documents[0].data, documents, Path())
    written = made.data["steps"]["merged"]["models"]["a"]
    return SCALAR.validate_python(written["weight"] if isinstance(written, dict) else written)


def number(schedule: Any, name: str, depth: float) -> float | None:
    """Return what our recipe says of a tensor."""
    info = TensorInfo(TensorSpec(name, (1,), "F32"), Role(), depth)
    return resolve(schedule, depth, lambda text: compile_selector(text).matches(info))


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.none() | values, st.none() | values, values))
@example(
    ([{"filter": "mlp", "value": 1}], [{"filter": "up_proj", "value": 2}, {"filter": "q", "value": 3}], 4)
)
@example((None, [{"filter": "self_attn", "value": [0, 1]}], [{"value": 2}]))
def test_every_tensor_gets_what_the_innermost_scope_says_of_it(scopes):
    schedule = ours(scopes)
    for name, depth in zip(NAMES, DEPTHS, strict=True):
        found = next(
            (s for scope in scopes if scope is not None and (s := said(scope, name)) is not None), None
        )
        assert number(schedule, name, depth) == (None if found is None else at(found, depth))
