from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe.load import parse_recipe
from surgery.recipe.published import as_yaml, published, published_source, without_paths
from surgery.recipe.yaml import read_yaml

HOME = Path("/data/joe/work")
PLAIN = """\
surgery: 1  # a comment
models: {a: ./a, b: org/name@main}
steps: {m: {op: merge.linear, models: [a, b], where: "re:mlp/.*"}}
output: {model: m, to: ./out}
"""


def test_a_recipe_without_paths_of_this_machine_is_published_as_it_is():
    assert published(parse_recipe(PLAIN, folder=HOME)) == PLAIN


@pytest.mark.parametrize(
    ("written", "public"),
    [
        ("/data/joe/work/a", "./a"),
        ("/data/joe/work/x/a", "./x/a"),
        ("/data/joe/a", "./a"),
        ("~/models/a", "./a"),
        ("./a", "./a"),
        ("../a", "../a"),
        ("org/name", "org/name"),
        ("memory:a", "memory:a"),
    ],
)
def test_paths_become_relative_or_their_last_part(written, public):
    recipe = parse_recipe(PLAIN.replace("./a", written), folder=HOME)
    assert published_source(recipe, "a") == public
    found = parse_recipe(published(recipe))
    assert found.models["a"].source == public
    assert found.steps == recipe.steps


def test_the_rest_of_a_recipe_that_is_written_anew_says_the_same():
    text = PLAIN.replace("./out", "/data/joe/out").replace(
        "surgery: 1", "seed: 7\non_nonfinite: keep\nsurgery: 1"
    )
    recipe = parse_recipe(text, folder=HOME)
    found = parse_recipe(published(recipe))
    assert found.output.to == "./out"
    assert found.model_dump(exclude={"output"}) == recipe.model_dump(exclude={"output"})


@pytest.mark.parametrize("comment", ["see /data/joe/notes.txt", "token hf_abcdefghijkl", "was ~/old/model"])
def test_comments_with_paths_or_tokens_are_not_published(comment):
    text = published(parse_recipe(PLAIN.replace("a comment", comment), folder=HOME))
    assert "#" not in text
    assert "joe" not in text
    assert "hf_abc" not in text


def test_a_recipe_of_another_tool_is_published_in_ours():
    ours = read_yaml(PLAIN).data
    recipe = parse_recipe("foreign: true\n", folder=HOME, foreign=lambda documents, folder: ours)
    assert read_yaml(published(recipe)).data == ours


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_data_survives_being_written(value):
    found = read_yaml(as_yaml({"x": _readable(value)})).data["x"]
    assert found == _readable(value)


def _readable(value):
    """Leave out characters that no YAML may hold."""
    if isinstance(value, str):
        return "".join(c for c in value if c.isprintable())
    if isinstance(value, list):
        return [_readable(part) for part in value]
    if isinstance(value, dict):
        return {key: _readable(part) for key, part in value.items()}
    return value


@pytest.mark.parametrize(
    "text", ["1e-3", "yes", "0o17", "1_000", "null", "1.5", "", "~", "12:30", "- a", "#x"]
)
def test_text_that_looks_like_something_else_stays_text(text):
    assert read_yaml(as_yaml({"x": text})).data == {"x": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/joe/x/model.safetensors: is cut off", "model.safetensors: is cut off"),
        ("`/home/joe/x` and ~/y/z", "`x` and z"),
        ("a/b and model.layers/0 and 3/4", "a/b and model.layers/0 and 3/4"),
        ("https://host/a/b", "https://host/a/b"),
        ("/home/joe/", "..."),
        ("1.5 MiB/s", "1.5 MiB/s"),
    ],
)
def test_messages_lose_their_paths(text, expected):
    assert without_paths(text) == expected
