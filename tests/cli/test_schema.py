from __future__ import annotations

import json

from jsonschema import Draft202012Validator


def test_the_schema_knows_the_installed_ops(surgery):
    schema = json.loads(surgery("schema").stdout)
    Draft202012Validator.check_schema(schema)
    assert "merge.linear" in schema["$defs"]


def test_the_schema_accepts_a_recipe_and_underlines_a_mistake(surgery):
    validator = Draft202012Validator(json.loads(surgery("schema").stdout))
    recipe = {
        "surgery": 1,
        "models": {"a": "./a", "b": "./b"},
        "steps": {"mix": {"op": "merge.linear", "models": {"a": 0.5, "b": 0.5}}},
        "output": {"model": "mix", "to": "./out"},
    }
    assert validator.is_valid(recipe)
    recipe["steps"]["mix"]["normalise"] = True
    assert not validator.is_valid(recipe)


def test_a_file_holds_what_is_printed(surgery, tmp_path):
    file = tmp_path / "recipe.schema.json"
    for _ in range(2):  # an old one is replaced
        result = surgery("schema", "--out", file)
        assert (result.exit_code, result.stdout) == (0, "")
    assert file.read_text() == surgery("schema").stdout


def test_a_file_that_cannot_be_written_is_2(surgery, tmp_path):
    result = surgery("schema", "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {tmp_path}: cannot be written: Is a directory; choose another place\n",
    )


def test_a_plugin_files_ops_are_in_it(surgery, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        'from surgery import op\n\n@op("own.same")\ndef same(x, p):\n    """Copy."""\n    return x.models[0]\n'
    )
    assert "own.same" in json.loads(surgery("schema", "--plugin", file).stdout)["$defs"]
