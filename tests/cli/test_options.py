from __future__ import annotations

import click
import pytest

from surgery.cli.options import Size


def test_a_size_is_bytes():
    assert Size().convert("2GiB", None, None) == 2 * 2**30


def test_what_is_no_size_is_a_usage_error():
    with pytest.raises(click.BadParameter) as refused:
        Size().convert("2 bananas", None, None)
    assert (
        str(refused.value)
        == "`2 bananas` is not a size; write a number and a unit, such as 5GB, 512MiB or 1.5 GiB"
    )
