"""Plugins are loaded when they are named, told apart from broken ones, and keep to their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import PluginError
from surgery.host import Host
from tests.host.conftest import GOOD


def test_a_plugin_that_raises_on_import_is_named_with_the_way_out(installed):
    installed("quant", "import gptqmodel_is_not_here")
    with pytest.raises(PluginError) as error:
        Host().op("quant.int4")
    assert str(error.value) == (
        "plugin quant (surgery-quant 0.2.1): failed to import: ModuleNotFoundError: "
        "No module named 'gptqmodel_is_not_here'; mend or update it, or set SURGERY_DISABLED_PLUGINS=quant"
    )


def test_loading_one_plugin_says_what_it_adds_and_loads_no_other(installed):
    observer = "import surgery\n@surgery.hookimpl\ndef surgery_run_finished(report): ...\n"
    installed("one", GOOD.format(family="one") + observer)
    installed("two", "1 / 0")
    host = Host()
    loaded = host.load(host.families["one"])
    assert loaded.hooks == ("surgery_register_ops", "surgery_run_finished")
    assert [op.name for op in loaded.ops] == ["one.same"]
    assert loaded.module.same is loaded.ops[0]
    with pytest.raises(PluginError, match=r"plugin two .* failed to import: ZeroDivisionError"):
        host.load(host.families["two"])


def test_what_a_file_adds_is_known_too(tmp_path):
    host = Host([file_plugin(tmp_path, GOOD.format(family="mine"))])
    assert list(host.files) == ["mine"]
    loaded = host.load(host.files["mine"])
    assert (loaded.hooks, loaded.module.__file__) == (("surgery_register_ops",), str(tmp_path / "mine.py"))
    assert [op.name for op in loaded.ops] == ["mine.same"]


def test_a_foreign_name_is_refused(installed):
    installed("one", GOOD.format(family="merge"))
    with pytest.raises(PluginError) as error:
        Host().op("one.same")
    assert str(error.value) == (
        "plugin one (surgery-one 0.2.1): registers op `merge.same`, its ops are called `one.<method>`; rename the op"
    )


def test_what_is_no_op_is_refused(installed):
    installed("one", GOOD.format(family="one").replace("[same]", "['same']"))
    with pytest.raises(PluginError, match="surgery_register_ops returned 'same'; return what @op made"):
        Host().op("one.same")


def test_a_hook_with_a_wrong_signature_is_refused(installed):
    installed("one", "import surgery\n@surgery.hookimpl\ndef surgery_job_done(work): ...\n")
    with pytest.raises(PluginError, match="compare with the signatures in surgery"):
        Host().op("one.same")


def test_a_hook_that_does_not_exist_is_refused(installed):
    installed("one", "import surgery\n@surgery.hookimpl\ndef surgery_jobs_done(job): ...\n")
    with pytest.raises(PluginError, match="surgery_jobs_done"):
        Host().op("one.same")


def file_plugin(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source)
    return path


def test_a_file_may_simply_define_ops(tmp_path):
    source = GOOD.format(family="mine").partition("@surgery.hookimpl")[0]
    host = Host([file_plugin(tmp_path, source)])
    assert host.op("mine.same").summary == "Return the input."


def test_a_file_may_postpone_its_annotations(tmp_path):
    source = "from __future__ import annotations\nimport surgery\n"
    source += "class By(surgery.Params):\n    by: surgery.Share = 0.5\n"
    source += (
        GOOD.format(family="mine")
        .partition("@surgery.hookimpl")[0]
        .replace("models=1", "models=1, params=By")
    )
    host = Host([file_plugin(tmp_path, source)])
    assert host.op("mine.same").params(by=0.25).by == 0.25


def test_a_file_cannot_claim_an_installed_family(tmp_path):
    with pytest.raises(
        PluginError, match=r"registers op `merge.same`, the family `merge` belongs to plugin merge"
    ):
        Host([file_plugin(tmp_path, GOOD.format(family="merge"))])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("1 / 0", "failed to import: ZeroDivisionError: division by zero; mend the file"),
        ("import surgery\n@surgery.op('x.y')\ndef f(x, p): ...\n", "has no docstring"),
        (
            "import surgery\n@surgery.op('xy')\ndef f(x, p):\n    'Say.'\n",
            "a name is `family.method`; rename it",
        ),
        (
            "import surgery\n@surgery.op('x.y')\nclass F:\n    'Say.'\n",
            "a class must derive from Reduce or Group",
        ),
    ],
)
def test_a_broken_file_is_told(tmp_path, source, told):
    with pytest.raises(PluginError) as error:
        Host([file_plugin(tmp_path, source)])
    assert told in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(PluginError, match="no such file; give the path of a Python file"):
        Host([tmp_path / "none.py"])


def test_a_file_beside_a_recipe_is_never_picked_up(tmp_path, monkeypatch):
    (tmp_path / "surgery_plugin.py").write_text("raise SystemExit('picked up')")
    (tmp_path / "r.yaml").write_text("surgery: 1\nmodels: {a: ./a}\noutput: {model: a, to: ./o}\n")
    monkeypatch.chdir(tmp_path)
    from surgery.api import load

    assert load("r.yaml").recipe.models
