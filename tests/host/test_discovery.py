"""Entry points become plugins; two of a name are refused."""

from __future__ import annotations

import pytest

from surgery import host as hosts
from surgery.errors import PluginError
from surgery.host import Host
from tests.host.conftest import GOOD


def test_a_disabled_plugin_is_not_there(installed, monkeypatch):
    installed("one", GOOD.format(family="one"))
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "other, one")
    host = Host()
    assert host.op("one.same") is None
    assert host.unknown_op("one.same") == (
        "unknown op `one.same`: the plugin `one` is disabled by SURGERY_DISABLED_PLUGINS; unset it"
    )


def test_two_claims_on_one_family_are_refused(installed):
    installed("one", GOOD.format(family="one"))
    installed("one", GOOD.format(family="one"))
    with pytest.raises(PluginError, match="two plugins are called `one`"):
        Host()


def test_a_name_is_taken_even_while_its_plugin_is_disabled(installed, monkeypatch):
    installed("one", GOOD.format(family="one"))
    installed("seen", "", hosts.ALWAYS)
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "one")
    assert [hosts.owner_of(name) for name in ("one", "seen", "two")] == ["surgery-one", "surgery-seen", None]


def test_a_plugin_may_be_a_family_and_asked_in_every_run_but_two_may_not_share_the_name(installed):
    installed("one", GOOD.format(family="one"), module="surgery_test_both")
    installed("one", GOOD.format(family="one"), hosts.ALWAYS, module="surgery_test_both")
    host = Host()
    assert host.op("one.same") is host.load(host.always["one"]).ops[0]
    installed("two", GOOD.format(family="two"))
    installed("two", GOOD.format(family="two"), hosts.ALWAYS)
    with pytest.raises(PluginError, match="two plugins are called `two`"):
        Host()
