from __future__ import annotations

import platform

from surgery import __version__


def test_versions_are_a_line_each(surgery):
    lines = dict(line.split(None, 1) for line in surgery("version").stdout.splitlines())
    assert lines["surgery"] == __version__
    assert lines["python"] == platform.python_version()
    assert "torch" in lines


def test_a_missing_library_is_said(surgery, monkeypatch):
    from surgery.cli import version

    monkeypatch.setattr(version, "_LIBRARIES", ("no-such-library",))
    assert "no-such-library  not installed\n" in surgery("version").stdout
