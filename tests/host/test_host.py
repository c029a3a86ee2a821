"""What plugins are asked for."""

from __future__ import annotations

import pytest

import surgery
from surgery import host as hosts
from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.errors import PluginError
from surgery.host import Host
from surgery.recipe.document import Document
from tests.host.conftest import GOOD


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


def test_a_broken_plugin_does_not_spoil_suggestions(installed):
    installed("one", GOOD.format(family="one"))
    installed("quant", "1 / 0")
    assert Host().op_names() == ["one.same"]


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
