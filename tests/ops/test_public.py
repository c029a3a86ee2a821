"""`surgery.ops` is one place for plugin authors, whatever files it is made of."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import surgery.ops


def test_every_name_is_there_once():
    names = surgery.ops.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(surgery.ops, name) for name in names)


def test_the_classes_of_all_files_are_named():
    folder = Path(surgery.ops.__file__).parent
    for file in folder.glob("[a-z]*.py"):
        module = import_module(f"surgery.ops.{file.stem}")
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and isinstance(value, type) and value.__module__ == module.__name__
        }
        assert own <= set(surgery.ops.__all__), file.name


def test_a_declaration_imports_no_torch():
    code = "import sys, surgery.ops; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
