from __future__ import annotations

import pytest

from surgery.sizes import parse_size


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("5GB", 5_000_000_000),
        ("512MiB", 536_870_912),
        ("1.5 GiB", 1_610_612_736),
        ("2tib", 2 * 1024**4),
        (" 3 kb ", 3_000),
        ("7", 7),
        ("7B", 7),
        (4096, 4096),
        ("0.1 KiB", 102),
        ("1", 1),
    ],
)
def test_gb_is_decimal_gib_is_binary_and_case_and_spaces_do_not_matter(written, count):
    assert parse_size(written) == count


@pytest.mark.parametrize(
    "written", ["5XB", "", "GB", "-5GB", "5 G B", "1e9", "5GBs", "٥GB", "5,0GB", "inf", True]
)
def test_anything_else_is_an_error_that_shows_how_to_write_it(written):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_size(written)
    assert str(caught.value) == (
        f"`{written}` is not a size; write a number and a unit, such as 5GB, 512MiB or 1.5 GiB"
    )


@pytest.mark.parametrize("written", ["0", "0GB", 0, "0.5", "0.0001KiB"])
def test_a_size_below_one_byte_is_an_error(written):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_size(written)
    assert str(caught.value) == (
        f"`{written}` is less than one byte; write a number and a unit, such as 5GB or 512MiB"
    )


def test_a_size_of_many_digits_is_refused_before_it_is_computed():
    with pytest.raises(ValueError, match="is not a size"):
        parse_size("9" * 1000 + "GB")
