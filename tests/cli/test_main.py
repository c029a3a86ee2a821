from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from surgery import __version__
from surgery.cli.group import COMMANDS

PRINT_HEAVY = """
import sys
from surgery.cli.main import cli
try:
    cli({words!r}, prog_name="surgery")
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = {{"torch", "pydantic", "numpy", "networkx", "rich", "surgery.host", "surgery.ops"}}
print("heavy:", sorted(heavy & set(sys.modules)))
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["plan", "--help"],
        ["diff", "--help"],
        ["plugin", "new", "--help"],
    ],
)
def test_help_imports_nothing_heavy(words):
    assert python(PRINT_HEAVY.format(words=words)) == "heavy: []"


def test_a_plan_needs_no_torch(work):
    code = PRINT_HEAVY.format(words=["plan", "mix.yaml", "--graph", "mix.svg"])
    assert "torch" not in python(code)


def test_help_takes_less_than_half_a_second():
    # of processor time: other processes may use the machine
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "surgery", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_lists_all_commands(surgery):
    lines = surgery("--help").stdout.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(surgery, name):
    help_text = " ".join(surgery(name, "--help").stdout.split())
    assert f" {COMMANDS[name]} " in help_text


def test_the_version_is_the_packages(surgery):
    assert surgery("--version").stdout == f"surgery {__version__}\n"


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(surgery):
    result = surgery("pln")
    assert result.exit_code == 2
    assert (
        result.stderr.splitlines()[-1]
        == "Error: no command is called `pln`; did you mean `plan` or `plugin` or `plugins`?"
    )


def test_an_unknown_option_is_a_usage_error(surgery):
    result = surgery("--nope")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_the_launcher_in_a_checkout_runs_the_same_command(pytestconfig):
    done = subprocess.run(
        [sys.executable, pytestconfig.rootpath / "cli.py", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"surgery {__version__}\n"
