"""Writes docs/recipe-reference.md from the installed ops: `make docs`."""

from __future__ import annotations

from pathlib import Path

from surgery.host import Host
from surgery.recipe.reference import recipe_reference

if __name__ == "__main__":
    Path(__file__).with_name("recipe-reference.md").write_text(recipe_reference(Host().ops().values()))
