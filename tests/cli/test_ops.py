from __future__ import annotations

import json

import pytest

PLUGIN = '''\
"""An op of one's own."""

from surgery import op


@op("own.half", models=1, cite="nobody 2026")
def half(x, p):
    """Halve a model: θ/2."""
    return x.models[0] * 0.5
'''


@pytest.fixture
def plugin(work):
    (work / "mine.py").write_text(PLUGIN)
    return "mine.py"


def test_ops_are_listed_with_what_they_do(surgery):
    lines = surgery("ops", "merge").stdout.splitlines()
    assert lines[0].split() == ["op", "split", "base", "models", "summary"]
    linear = next(line for line in lines if line.startswith("merge.linear "))
    assert linear.split(None, 4)[1:3] == ["element", "none"]
    assert linear.endswith("Average models: Σ w·θ / Σ w.")


def test_a_family_is_listed_alone(surgery):
    names = [line.split()[0] for line in surgery("ops", "stitch").stdout.splitlines()[1:]]
    assert names
    assert all(name.startswith("stitch.") for name in names)


def test_an_unknown_family_is_2(surgery):
    result = surgery("ops", "stich")
    assert result.exit_code == 2
    assert result.stderr == "error: no family of ops is called `stich`; did you mean `stitch`?\n"


def test_a_plugin_file_adds_its_ops(surgery, plugin):
    assert surgery("ops", "own", "--plugin", plugin).stdout.splitlines()[1] == (
        "own.half  element  none  1       Halve a model: θ/2."
    )


def test_json_is_the_whole_declaration(surgery, plugin):
    (record,) = json.loads(surgery("ops", "own", "--json", "--plugin", plugin).stdout)
    assert record == {
        "name": "own.half",
        "family": "own",
        "summary": "Halve a model: θ/2.",
        "splits": ["element"],
        "base": "none",
        "models": [1, 1],
        "takes": "weight",
        "gives": "weight",
        "parameters": [],
        "each": [],
        "cite": "nobody 2026",
        "version": 1,
        "plugin": "mine",
        "distribution": "mine.py",
    }


def test_json_of_all_families_is_sorted(surgery):
    names = [op["name"] for op in json.loads(surgery("ops", "--json").stdout)]
    assert names == sorted(names)
    assert {name.partition(".")[0] for name in names} >= {"merge", "stitch"}


def test_a_broken_family_is_left_out_with_a_warning(surgery, install):
    install("broken", "1 / 0", group="surgery")
    result = surgery("ops")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: plugin broken (surgery-broken 1.5): failed to import: ZeroDivisionError: division by zero; "
        "mend or update it, or set SURGERY_DISABLED_PLUGINS=broken\n"
    )
    assert "merge.linear" in result.stdout
    asked_for = surgery("ops", "broken")
    assert asked_for.exit_code == 2
    assert asked_for.stderr.startswith("error: plugin broken (surgery-broken 1.5): failed to import")


def test_an_ops_page_is_markdown_where_no_person_looks(surgery, plugin):
    assert surgery("op", "own.half", "--plugin", plugin).stdout == (
        "## `own.half`\n\nHalve a model: θ/2.\n\n"
        "- Models: 1\n- Base: not used\n- Works element by element\n- Source: nobody 2026\n"
    )


def test_an_unknown_op_is_2_with_a_suggestion(surgery):
    result = surgery("op", "merge.linera")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: unknown op `merge.linera`; did you mean `merge.linear` or `merge.slerp` or `merge.ram`?\n",
    )


def test_a_plugin_file_that_is_not_there_is_2(surgery):
    result = surgery("op", "merge.linear", "--plugin", "nowhere.py")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --plugin nowhere.py: no such file; give the path of a Python file\n",
    )
