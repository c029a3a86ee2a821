from __future__ import annotations

import subprocess
import sys

import click
import pytest

from surgery.cli.exits import exit_codes, message
from surgery.errors import CheckpointError, Finding, PlanError, SurgeryError


def code_of(error: BaseException) -> int:
    with pytest.raises(click.exceptions.Exit) as stopped, exit_codes():
        raise error
    return stopped.value.exit_code


def test_what_the_user_can_mend_is_2_and_one_line(capsys):
    assert code_of(CheckpointError("a.safetensors: is cut off; fetch it again")) == 2
    assert capsys.readouterr().err == "error: a.safetensors: is cut off; fetch it again\n"


def test_findings_are_printed_a_line_each(capsys):
    found = [Finding("no such model", "mix.yaml:3:1", "steps.mix"), Finding("no such op", "mix.yaml:4:1")]
    assert code_of(PlanError(found)) == 2
    assert capsys.readouterr().err == "mix.yaml:3:1: steps.mix: no such model\nmix.yaml:4:1: no such op\n"


def test_a_bug_is_1_with_its_traceback_and_where_to_go(capsys):
    assert code_of(KeyError("weight")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "KeyError: 'weight'"
    assert lines[-1] == (
        "this is a bug; please report it with the lines above, the recipe and what `surgery version` says"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_130(error, capsys):
    assert code_of(error) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_usage_errors_and_exits_are_left_to_click():
    for error in (click.UsageError("what"), click.exceptions.Exit(3)):
        with pytest.raises(type(error)), exit_codes():
            raise error


def test_an_error_without_text_says_its_kind():
    assert message(SurgeryError()) == "error: SurgeryError"


def test_an_error_cannot_command_the_terminal():
    assert message(SurgeryError("tensor \x1b[2Jx")) == "error: tensor ?[2Jx"


def test_a_reader_that_leaves_is_no_error():
    code = "from surgery.cli.main import main; import sys; sys.argv[1:] = ['schema']; main()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()  # before a byte is read
    errors = writer.stderr.read()
    writer.stderr.close()
    assert (writer.wait(), errors) == (0, b"")
