"""Ops are found in a package's public modules, each where it is defined."""

from __future__ import annotations

import sys

from surgery.ops import ops_in

OP = '''
from surgery.ops import op


@op("mine.{name}")
def {name}(x, p):
    """Return the input."""
    return x
'''


def test_public_modules_are_imported_and_what_they_borrow_is_left_to_its_owner(tmp_path, monkeypatch):
    package = tmp_path / "surgery_mine_found"
    package.mkdir()
    (package / "__init__.py").write_text("from surgery_mine_found.b import b")
    (package / "b.py").write_text(OP.format(name="b"))
    (package / "a.py").write_text("from surgery_mine_found.b import b" + OP.format(name="a"))
    (package / "_hidden.py").write_text(OP.format(name="hidden"))
    monkeypatch.syspath_prepend(tmp_path)
    found = ops_in("surgery_mine_found")
    for name in [name for name in sys.modules if name.startswith("surgery_mine_found")]:
        del sys.modules[name]
    assert [(op.name, op.module) for op in found] == [
        ("mine.a", "surgery_mine_found.a"),
        ("mine.b", "surgery_mine_found.b"),
    ]
