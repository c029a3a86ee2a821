"""The files of a new plugin package: complete, rendered, clean by our own rules, shipped in the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from surgery import __version__
from surgery.cli.scaffolding import Package, new_package, package_files, write_package

ROOT = Path(__file__).parents[2]
NAMES = ["fade", "x", "a_rather_long_name_for_a_plugin_that_goes_on"]


def tool(*words: object, at: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        check=False,
        cwd=at,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_a_package_is_these_files():
    assert list(package_files(Package("my_fade"))) == [
        "README.md",
        "pyproject.toml",
        "surgery_my_fade/__init__.py",
        "surgery_my_fade/distance.py",
        "surgery_my_fade/py.typed",
        "surgery_my_fade/toward.py",
        "tests/test_distance.py",
        "tests/test_recipe.py",
        "tests/test_toward.py",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_mark_is_filled_in(name):
    for path, text in package_files(new_package(name)).items():
        assert not re.search(r"\{\{|\}\}", text), path


def test_pyproject_names_the_family_the_package_and_what_it_stands_on():
    project = tomllib.loads(package_files(Package("my_fade"))["pyproject.toml"])["project"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "surgery-my-fade"
    assert project["entry-points"] == {"surgery": {"my_fade": "surgery_my_fade"}}
    assert project["dependencies"] == [f"model-surgery>={__version__}"]
    assert project["requires-python"] == ours["requires-python"]
    assert "license" not in project


@pytest.mark.parametrize("name", NAMES)
def test_it_is_clean_by_our_rules_and_by_its_own(name, tmp_path):
    folder = write_package(new_package(name), tmp_path)
    for config in ([], ["--config", ROOT / "pyproject.toml"]):
        for words in (["check"], ["format", "--check"]):
            done = tool("ruff", *words, "--no-cache", *config, ".", at=folder)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # without the cache that `make lint` leaves, torch is read first
def test_its_types_hold_by_our_rules(tmp_path):
    folder = write_package(new_package("fade"), tmp_path)
    (folder / "surgery_fade" / "wrong.py").write_text('by: int = "half"\n')  # to see that it is looked at
    files = [folder / "surgery_fade", folder / "tests"]
    done = tool("mypy", "--config-file", ROOT / "pyproject.toml", *files, at=ROOT, MYPYPATH=str(folder))
    lines = [line for line in done.stdout.splitlines() if "fade" in line]
    assert len(lines) == 1, done.stdout + done.stderr
    assert "surgery_fade/wrong.py:1: error: Incompatible types in assignment" in lines[0]


def test_the_wheel_holds_every_template_and_the_mark_that_we_are_typed(tmp_path):
    done = tool("hatchling", "build", "-t", "wheel", "-d", tmp_path, at=ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    held = {name for name in names if name.startswith("surgery/cli/scaffold/")}
    folder = ROOT / "surgery" / "cli" / "scaffold"
    assert held == {path.relative_to(ROOT).as_posix() for path in folder.rglob("*.template")}
    assert len(held) == len(package_files(Package("x")))
    assert "surgery/py.typed" in names  # else a stranger's type checker knows nothing of us
