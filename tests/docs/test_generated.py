"""What is generated is fresh."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from surgery.host import Host
from surgery.recipe.reference import recipe_reference
from surgery.recipe.schema import recipe_schema
from surgery.recipe.yaml import read_yaml
from surgery.search.space import space_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ops():
    return Host().ops().values()


def test_the_schema_is_fresh(ops):
    committed = json.loads((ROOT / "schemas" / "recipe.json").read_text())
    assert committed == recipe_schema(ops), "run `make schemas`"


def test_the_reference_is_fresh(ops):
    committed = (ROOT / "docs" / "recipe-reference.md").read_text()
    assert committed == recipe_reference(ops), "run `make docs`"


def test_the_schema_accepts_every_recipe(ops):
    schema = recipe_schema(ops)
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        document = read_yaml(recipe.read_text())
        space = space_of(document)  # holes are no YAML that a schema could describe
        jsonschema.validate(space.filled(space.centre).data, schema)


def test_every_op_has_a_test_and_a_citation_or_none_exists(ops):
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "plugins").rglob("*.py"))
    for op in ops:
        family, _, method = op.name.partition(".")
        assert op.name in tests or f"surgery_{family}.{method}" in tests, f"no test names {op.name}"
