"""The package as a plugin: asked for every file, cheap to ask."""

from __future__ import annotations

import subprocess
import sys

from surgery.host import Host

CODE = """
import sys
import surgery
recipe = surgery.loads("merge_method: linear\\nmodels: [{model: a, parameters: {weight: 1}}]").recipe
assert recipe.steps["merged"].op == "merge.linear"
assert "torch" not in sys.modules, "torch was imported"
"""


def test_it_is_asked_in_every_run():
    assert "mergekit" in Host().always


def test_reading_a_document_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_can_be_left_out(monkeypatch, tmp_path):
    from surgery.recipe.yaml import read_documents

    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "mergekit")
    assert Host().read_foreign(read_documents("merge_method: linear"), tmp_path) is None
