"""A plugin package as a stranger makes it: `surgery plugin new`, files of their own, an environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

DOWNSTREAM = Path(__file__).parent / "downstream"
INSTALL = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the command writes it."""
    work = tmp_path_factory.mktemp("work")
    told = run(Path(sys.executable), "-m", "surgery", "plugin", "new", "shrink", "--into", work)
    assert told.startswith(f"wrote {work / 'surgery-shrink'}; ")
    return work / "surgery-shrink"


@pytest.fixture(scope="module")
def python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's packages, with the plugin installed (`pip install -e`) in it and not here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *INSTALL, "-e", package],
        check=True,
        timeout=100,
    )
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def extended(package: Path, python: Path) -> Path:
    """The environment after the author has added an op and observers to the package."""
    module = package / "surgery_shrink"
    for file in (DOWNSTREAM / "surgery_shrink").glob("*.py"):
        shutil.copy(file, module)
    with (module / "__init__.py").open("a") as init:
        init.write("\nfrom surgery_shrink.observe import surgery_job_done, surgery_run_finished\n")
    return python


def run(python: Path, *args: object) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, *map(str, args)], check=False, env=clean, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass_at_once(package, python):
    told = run(python, "-m", "pytest", package).splitlines()[-1]
    assert " passed" in told
    assert not {"failed", "skipped", "error", "warning"} & set(told.replace(",", "").split())


def test_the_command_line_knows_it(python):
    assert "shrink.toward" in run(python, "-m", "surgery", "ops", "shrink")
    assert "surgery-shrink" in run(python, "-m", "surgery", "plugins")
    assert "How far to go" in run(python, "-m", "surgery", "op", "shrink.toward")


def test_what_its_author_adds_is_found_and_its_observers_are_asked(extended, tmp_path):
    told = run(extended, DOWNSTREAM / "check.py", tmp_path)
    assert told.splitlines() == ["shrink saw w", "shrink saw 1 output", "checked 1"]


def test_it_is_not_installed_here():
    from surgery.host import Host

    assert "shrink" not in Host().families
