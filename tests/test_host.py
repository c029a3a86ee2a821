"""Plugins: found, loaded when named, and told apart from broken ones."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

import surgery
from surgery import host as hosts
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import PluginError
from surgery.host import Host
from surgery.recipe.document import Document

GOOD = '''
import surgery

@surgery.op("{family}.same", models=1)
def same(x, p):
    """Return the input."""
    return x.models[0]

@surgery.hookimpl
def surgery_register_ops():
    return [same]
'''


class Entry(importlib.metadata.EntryPoint):
    """An entry point of a distribution that is not installed."""

    @property
    def dist(self):
        return type("Dist", (), {"name": f"surgery-{self.name}", "version": "0.2.1"})()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretends that modules are installed as plugins."""
    entries: list[Entry] = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        hosts.importlib.metadata, "entry_points", lambda group: [e for e in entries if e.group == group]
    )

    def install(name: str, source: str, group: str = hosts.FAMILIES, module: str = "") -> None:
        module = module or f"surgery_test_{name}_{len(entries)}"
        (tmp_path / f"{module}.py").write_text(source)
        entries.append(Entry(name, module, group))

    yield install
    for entry in entries:
        sys.modules.pop(entry.value, None)


def test_a_family_is_loaded_when_one_of_its_ops_is_named(installed):
    installed("one", GOOD.format(family="one"))
    installed("two", "raise RuntimeError('never imported')")
    host = Host()
    assert host.op("one.same").name == "one.same"
    assert host.op("one.other") is None
    assert host.op("three.same") is None


def test_the_op_knows_its_plugin(installed):
    installed("one", GOOD.format(family="one"))
    host = Host()
    host.op("one.same")
    assert str(host.plugin_of("one.same")) == "plugin one (surgery-one 0.2.1)"


def test_a_plugin_that_raises_on_import_is_named_with_the_way_out(installed):
    installed("quant", "import gptqmodel_is_not_here")
    with pytest.raises(PluginError) as error:
        Host().op("quant.int4")
    assert str(error.value) == (
        "plugin quant (surgery-quant 0.2.1): failed to import: ModuleNotFoundError: "
        "No module named 'gptqmodel_is_not_here'; mend or update it, or set SURGERY_DISABLED_PLUGINS=quant"
    )


def test_a_broken_plugin_does_not_spoil_suggestions(installed):
    installed("one", GOOD.format(family="one"))
    installed("quant", "1 / 0")
    assert Host().op_names() == ["one.same"]


def test_a_disabled_plugin_is_not_there(installed, monkeypatch):
    installed("one", GOOD.format(family="one"))
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "other, one")
    host = Host()
    assert host.op("one.same") is None
    assert host.unknown_op("one.same") == (
        "unknown op `one.same`: the plugin `one` is disabled by SURGERY_DISABLED_PLUGINS; unset it"
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


def test_two_claims_on_one_family_are_refused(installed):
    installed("one", GOOD.format(family="one"))
    installed("one", GOOD.format(family="one"))
    with pytest.raises(PluginError, match="two plugins are called `one`"):
        Host()


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


def test_two_claims_on_one_model_type_are_refused(installed):
    claim = (
        "import surgery\nfrom surgery.plan.virtual import PLAIN\nfrom dataclasses import replace\n"
        "@surgery.hookimpl\ndef surgery_register_architectures():\n"
        "    return [replace(PLAIN, name='x', model_types=frozenset({'llama'}))]\n"
    )
    installed("one", claim, hosts.ALWAYS)
    installed("two", claim, hosts.ALWAYS)
    with pytest.raises(PluginError, match=r"plugin two .* claims model type `llama`, so does plugin one"):
        Host().architectures()


def test_formats_and_schemes_are_gathered_and_checked(installed):
    installed(
        "one",
        "import surgery\nfrom surgery.checkpoint.base import Format, Scheme\n"
        "@surgery.hookimpl\ndef surgery_register_formats():\n"
        "    return [Format('f', lambda p: False, lambda p: None)]\n"
        "@surgery.hookimpl\ndef surgery_register_sources():\n    return ['gguf']\n",
        hosts.ALWAYS,
    )
    host = Host()
    assert [format_.name for format_ in host.formats()] == ["f"]
    with pytest.raises(PluginError, match="surgery_register_sources returned 'gguf', not a Scheme"):
        host.schemes()


def test_adapter_formats_are_gathered_and_two_claims_on_a_name_refused(installed):
    claim = (
        "import surgery\nfrom surgery.checkpoint.base import AdapterFormat\n"
        "@surgery.hookimpl\ndef surgery_register_adapters():\n"
        "    return [AdapterFormat('lokr', lambda path: False, lambda path, base: base)]\n"
    )
    installed("one", claim, hosts.ALWAYS)
    assert [format_.name for format_ in Host().adapters()] == ["lokr"]
    installed("two", claim, hosts.ALWAYS)
    with pytest.raises(PluginError, match=r"plugin two .* claims adapter format `lokr`, so does plugin one"):
        Host().adapters()


def test_the_first_plugin_that_has_a_view_of_a_checkpoint_gives_it(installed):
    claim = (
        "import surgery\nfrom surgery.checkpoint.memory import MemoryCheckpoint\n"
        "@surgery.hookimpl\ndef surgery_decode_checkpoint(checkpoint):\n"
        "    return MemoryCheckpoint({{}}, location='{name}') if checkpoint.config else None\n"
    )
    installed("two", claim.format(name="two"), hosts.ALWAYS)
    installed("one", claim.format(name="one"), hosts.ALWAYS)
    plain, coded = MemoryCheckpoint({}), MemoryCheckpoint({}, {"codes": 4})
    assert Host().decoded(plain) is plain
    assert Host().decoded(coded).location == "one"


def test_a_view_that_is_no_checkpoint_is_refused(installed):
    source = "import surgery\n@surgery.hookimpl\ndef surgery_decode_checkpoint(checkpoint):\n    return 4\n"
    installed("one", source, hosts.ALWAYS)
    with pytest.raises(PluginError, match="surgery_decode_checkpoint returned 4, not a Checkpoint"):
        Host().decoded(MemoryCheckpoint({}))


def test_a_checkpoint_that_cannot_be_decoded_is_closed(installed):
    class Closing(MemoryCheckpoint):
        closed = False

        def close(self):
            self.closed = True

    installed(
        "one",
        "import surgery\n@surgery.hookimpl\ndef surgery_decode_checkpoint(checkpoint):\n"
        "    raise surgery.CheckpointError('codes without scales')\n",
        hosts.ALWAYS,
    )
    coded = Closing({})
    with pytest.raises(surgery.CheckpointError, match="codes without scales"):
        Host().decoded(coded)
    assert coded.closed


def test_a_plugin_reads_foreign_recipes(installed, tmp_path):
    installed(
        "one",
        "import surgery\n@surgery.hookimpl\ndef surgery_read_recipe(document):\n"
        "    return {'surgery': 1} if 'merge_method' in document else None\n",
        hosts.ALWAYS,
    )
    host = Host()
    assert host.read_foreign([Document("m.yaml", "", {"merge_method": "linear"})], tmp_path) == {"surgery": 1}
    assert host.read_foreign([Document("m.yaml", "", {"other": 1})], tmp_path) is None


def file_plugin(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(source)
    return path


def test_a_name_is_taken_even_while_its_plugin_is_disabled(installed, monkeypatch):
    installed("one", GOOD.format(family="one"))
    installed("seen", "", hosts.ALWAYS)
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "one")
    assert [hosts.owner_of(name) for name in ("one", "seen", "two")] == ["surgery-one", "surgery-seen", None]


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


def test_every_hook_is_documented_and_has_a_test():
    from surgery import hookspecs

    page = (Path(__file__).parents[1] / "docs" / "writing-plugins.md").read_text()
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("*.py"))
    hooks = [name for name in vars(hookspecs) if name.startswith("surgery_")]
    assert len(hooks) == 14
    for hook in hooks:
        assert f"`{hook}`" in page, f"docs/writing-plugins.md does not mention {hook}"
        assert f"def {hook}" in tests, f"no test implements {hook}"


def test_a_plugin_may_be_a_family_and_asked_in_every_run_but_two_may_not_share_the_name(installed):
    installed("one", GOOD.format(family="one"), module="surgery_test_both")
    installed("one", GOOD.format(family="one"), hosts.ALWAYS, module="surgery_test_both")
    host = Host()
    assert host.op("one.same") is host.load(host.always["one"]).ops[0]
    installed("two", GOOD.format(family="two"))
    installed("two", GOOD.format(family="two"), hosts.ALWAYS)
    with pytest.raises(PluginError, match="two plugins are called `two`"):
        Host()
