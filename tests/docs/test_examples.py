"""The documentation's code blocks, run in order, page by page.

```yaml file=NAME      written to NAME
```python file=NAME    written to NAME
```python              run, in one namespace a page
```console             lines beginning with `$` are run and must succeed, or fail with 2 if they end in `# fails`
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from surgery.cli.main import cli
from tests.hub.fixtures import hub

__all__ = ["hub"]

ROOT = Path(__file__).parents[2]
GENERATED = {"recipe-reference.md", "architecture.md"}
PAGES = [
    "README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED),
]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the zoo that pages may write beside."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "recipes" / "zoo", folder / "zoo", ignore=shutil.ignore_patterns("*.py"))
    return folder


def command(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words.pop(0) == "surgery", line
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    expected = 2 if line.endswith("# fails") else 0
    assert result.exit_code == expected, f"{line}\n{result.output}"


@pytest.fixture
def online(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give what names places on the Hub one on this machine, with the zoo's base and code as `acme/...`."""

    def ready(text: str) -> None:
        if "hub:" in text:
            hub = request.getfixturevalue("hub")
            for name in ("base", "code"):
                hub.add(f"acme/{name}", ROOT / "recipes" / "zoo" / name)

    return ready


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let searches evaluate on one thread: on a busy machine two wait for each other ten times as long as they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, zoo, tmp_path, monkeypatch, online):
    online((ROOT / page).read_text())
    (tmp_path / "zoo").symlink_to(zoo / "zoo")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "surgery_docs"}
    monkeypatch.setitem(sys.modules, "surgery_docs", type(sys)("surgery_docs"))
    ran = 0
    for language, settings, text in BLOCK.findall((ROOT / page).read_text()):
        if "file=" in settings:
            (tmp_path / settings.partition("file=")[2].strip()).write_text(text)
        elif language == "python":
            exec(compile(text, page, "exec", dont_inherit=True), namespace)  # not this file's annotations
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    command(line[2:])
        else:
            continue
        ran += 1
    assert ran >= 2


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_runs(recipe, tmp_path, monkeypatch, online):
    online(recipe.read_text())
    shutil.copytree(ROOT / "recipes" / "zoo", tmp_path / "zoo", ignore=shutil.ignore_patterns("*.py"))
    shutil.copy(recipe, tmp_path)
    monkeypatch.chdir(tmp_path)
    name = recipe.name
    if "${search" in recipe.read_text():
        command(f"surgery search {name} --trials 1 --out found")
        name = "found/winner.yaml"
    command(f"surgery run {name}")
    for folder in (tmp_path / "out").iterdir():
        command(f"surgery verify {folder}")


def test_every_page_is_linked_from_readme():
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme


def test_relative_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
