from __future__ import annotations

import pytest

from surgery import host
from surgery.cli import extensions

ADDS = """
import click
from surgery import hookimpl

@hookimpl
def surgery_add_commands(group):
    @group.command("{name}")
    def command():
        "Say hello."
        click.echo("hello")
"""


def test_a_plugin_adds_a_command(surgery, install):
    install("hello", ADDS.format(name="hello"))
    assert surgery("hello").stdout == "hello\n"
    assert surgery("--help").stdout.splitlines()[-1].split() == ["hello", "Say", "hello."]


def test_an_added_command_is_suggested(surgery, install):
    install("hello", ADDS.format(name="hello"))
    assert "did you mean `hello`?" in surgery("helo").stderr


def test_a_command_that_is_taken_is_refused_with_a_warning(surgery, install):
    install("greedy", ADDS.format(name="run"))
    result = surgery("--help")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: surgery_greedy_plugin: adds the command `run`, which is taken; rename it\n"
    )
    assert "Carry out a recipe" in result.stdout


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (
            "import does_not_exist",
            "plugin broken (surgery-broken 1.5): failed to import: ModuleNotFoundError: "
            "No module named 'does_not_exist'; mend or update it, or set SURGERY_DISABLED_PLUGINS=broken",
        ),
        (
            ADDS.replace('click.echo("hello")', "pass").replace(
                "@group.command", "1 / 0\n    @group.command"
            ),
            "surgery_add_commands: ZeroDivisionError: division by zero; mend the plugin or disable it with "
            "SURGERY_DISABLED_PLUGINS",
        ),
    ],
)
def test_a_broken_plugin_does_not_take_the_help_away(surgery, install, code, complaint):
    install("broken", code)
    result = surgery("--help")
    assert result.exit_code == 0
    assert result.stderr == f"warning: {complaint}\n"


def test_a_disabled_plugin_is_not_asked(surgery, install, monkeypatch):
    install("hello", ADDS.format(name="hello"))
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "hello")
    assert surgery("hello").exit_code == 2


def test_the_names_are_the_hosts():
    assert (extensions.ALWAYS, extensions.DISABLED) == (host.ALWAYS, host.DISABLED)
