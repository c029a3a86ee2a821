from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from surgery.cli.console import Column, pairs, printable, say_json, table


def test_a_plain_table_is_aligned_and_has_no_trailing_blanks(capsys):
    table(
        [Column("name"), Column("size", right=True), Column("dtype")],
        [("a", "10", ""), ("long name", "9", "F32")],
    )
    assert capsys.readouterr().out == (
        "name       size  dtype\n"
        "a            10\n"
        "long name     9  F32\n"
    )  # fmt: skip


def test_a_plain_table_is_never_wrapped(capsys):
    path = "/".join(["folder"] * 100)
    table([Column("path")], [(path,)])
    assert capsys.readouterr().out == f"path\n{path}\n"


def test_pairs_stand_below_each_other(capsys):
    pairs([("a", "1"), ("long", "2")])
    assert capsys.readouterr().out == "a     1\nlong  2\n"


def test_names_from_files_cannot_command_the_terminal():
    assert printable("a\x1b[31mb\r\nc") == "a?[31mb??c"
    assert printable("θ → 0.5") == "θ → 0.5"


def test_json_has_no_numbers_that_json_does_not_know():
    with pytest.raises(ValueError, match="not JSON compliant"):
        say_json(float("nan"))


def on_a_terminal(code: str, **environment: str) -> str:
    """Run Python code whose stdout is a terminal; return what it wrote."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env={**os.environ, **environment})
    os.close(theirs)
    written = os.read(ours, 100_000).decode()
    os.close(ours)
    return written


TABLE = "from surgery.cli.console import *; table([Column('op')], [('layers[0:4] :smile:',)], title='ops')"


def test_on_a_terminal_a_table_takes_text_as_it_is():
    written = on_a_terminal(TABLE, TERM="xterm", COLUMNS="80")
    assert "layers[0:4] :smile:" in written
    assert "─" in written


def test_no_color_is_respected():
    code = (
        "from rich.text import Text; from surgery.cli.console import rich_console;"
        "rich_console().print(Text('x', style='red'))"
    )
    assert "\x1b[31m" in on_a_terminal(code, TERM="xterm-256color")
    assert "\x1b[31m" not in on_a_terminal(code, TERM="xterm-256color", NO_COLOR="1")
