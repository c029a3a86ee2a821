"""A folder with three tiny models and a recipe, and the command line inside this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.testing.tiny import save_tiny

RECIPE = """\
surgery: 1
models:
  base: ./base
  code: ./code
  math: ./math
steps:
  merged:
    op: merge.task_arithmetic
    base: base
    models: {code: 0.5, math: 0.25}
output:
  model: merged
  to: ./out
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "code", "math")):
        save_tiny(folder / name, seed=seed, dtype="bfloat16")
    return folder


@pytest.fixture
def work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `base`, `code`, `math` (shared: not to be changed) and `mix.yaml`."""
    for model in tiny.iterdir():
        (tmp_path / model.name).symlink_to(model)
    (tmp_path / "mix.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def surgery() -> Callable[..., Result]:
    """Run a command line in this process."""
    from surgery.cli.main import cli

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], prog_name="surgery")

    return invoke


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a plugin for one test: a module and the metadata that pip would write."""
    from surgery.cli.extensions import plugin_commands

    def add(name: str, code: str, group: str = "surgery.always") -> None:
        folder = tmp_path / f"site-{name}"
        metadata = folder / f"surgery_{name}-1.5.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"surgery_{name}_plugin.py").write_text(code)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: surgery-{name}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = surgery_{name}_plugin\n")
        monkeypatch.syspath_prepend(folder)
        plugin_commands.cache_clear()
        added.append(f"surgery_{name}_plugin")

    added: list[str] = []
    yield add
    plugin_commands.cache_clear()
    for module in added:
        sys.modules.pop(module, None)
