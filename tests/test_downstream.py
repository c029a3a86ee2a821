"""A plugin package as a stranger writes it, installed in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "downstream" / "surgery_shrink"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's packages, with the plugin installed in it and not here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *install, HERE],
        check=True,
        timeout=100,
    )
    return folder / "bin" / "python"


def run(python: Path, *args: object) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, *map(str, args)], check=False, env=clean, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_ops_run_and_its_observers_are_asked(environment, tmp_path):
    told = run(environment, HERE / "check.py", tmp_path)
    assert told.splitlines() == ["shrink saw w", "shrink saw 1 output", "checked 1"]


def test_the_command_line_knows_it(environment):
    assert "shrink.toward" in run(environment, "-m", "surgery", "ops", "shrink")
    assert "surgery-shrink" in run(environment, "-m", "surgery", "plugins")
    assert "Share of the delta that is taken away." in run(
        environment, "-m", "surgery", "op", "shrink.toward"
    )


def test_it_is_not_installed_here():
    from surgery.host import Host

    assert "shrink" not in Host().families
