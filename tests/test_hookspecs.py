"""Every hook is documented and tested."""

from __future__ import annotations

from pathlib import Path


def test_every_hook_is_documented_and_has_a_test():
    from surgery import hookspecs

    page = (Path(__file__).parents[1] / "docs" / "writing-plugins.md").read_text()
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("*.py"))
    hooks = [name for name in vars(hookspecs) if name.startswith("surgery_")]
    assert len(hooks) == 14
    for hook in hooks:
        assert f"`{hook}`" in page, f"docs/writing-plugins.md does not mention {hook}"
        assert f"def {hook}" in tests, f"no test implements {hook}"
