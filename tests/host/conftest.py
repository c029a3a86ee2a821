"""Modules that count as installed plugins."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from surgery.host import FAMILIES

GOOD = '''
import surgery

@surgery.op("{family}.same", models=1)
def same(x, p):
    """Return the input."""
    return x.models[0]

@surgery.hookimpl
def surgery_register_ops():
    return [same]
'''


class Entry(importlib.metadata.EntryPoint):
    """An entry point of a distribution that is not installed."""

    @property
    def dist(self):
        return type("Dist", (), {"name": f"surgery-{self.name}", "version": "0.2.1"})()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretends that modules are installed as plugins."""
    entries: list[Entry] = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [e for e in entries if e.group == group]
    )

    def install(name: str, source: str, group: str = FAMILIES, module: str = "") -> None:
        module = module or f"surgery_test_{name}_{len(entries)}"
        (tmp_path / f"{module}.py").write_text(source)
        entries.append(Entry(name, module, group))

    yield install
    for entry in entries:
        sys.modules.pop(entry.value, None)
