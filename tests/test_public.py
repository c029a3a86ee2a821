"""The public surface: complete, importable, light."""

from __future__ import annotations

import subprocess
import sys

import surgery


def test_all_is_sorted_complete_and_importable():
    assert sorted(surgery.__all__) == surgery.__all__
    assert set(surgery._HOME_OF) | {"__version__", "hookimpl"} == set(surgery.__all__)
    for name in surgery.__all__:
        assert getattr(surgery, name) is not None
    assert dir(surgery) == surgery.__all__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(surgery, "merge")


def test_importing_surgery_imports_neither_torch_nor_pydantic():
    code = "import sys, surgery; assert not {'torch', 'pydantic', 'accelerate'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
