from __future__ import annotations

import pytest

from surgery.errors import CheckpointError
from surgery_hub.address import (
    Address,
    is_bare,
    place_address,
    place_folder,
    place_problem,
    source_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/name", Address("org/name")),
        ("org/name@main", Address("org/name", "main")),
        ("org/name-1.5_b@v1.0", Address("org/name-1.5_b", "v1.0")),
        ("org/name@v1/gguf", Address("org/name", "v1", "gguf")),
        ("org/name@feature%2Fx/a/b", Address("org/name", "feature/x", "a/b")),
        ("org/name@refs/pr/3", Address("org/name", "refs/pr/3")),
        ("org/name@refs/pr/3/sub", Address("org/name", "refs/pr/3", "sub")),
        ("org/name/sub/model.safetensors", Address("org/name", None, "sub/model.safetensors")),
        ("org/name@v1/", Address("org/name", "v1")),
    ],
)
def test_an_address_is_repository_revision_and_path(text, address):
    assert source_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "",
        "org/",
        "/name",
        "org/na me",
        "org/a--b",
        "org/n..m",
        "o/" + "x" * 96,
        "org/n/../m",
        "org/n@..%2Fm",
    ],
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(text):
    with pytest.raises(CheckpointError) as error:
        source_address(text)
    assert str(error.value) == (
        f"hub:{text}: is not a model on the Hub; write `org/name`, `org/name@revision`"
        " or `hub:org/name@revision/folder`"
    )


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("org/name", True),
        ("org/name@v1", True),
        ("org/name@v1/sub", True),
        ("org/name/sub", False),
        ("name", False),
        ("../name", False),
        ("org/name with space", False),
    ],
)
def test_without_a_scheme_a_folder_needs_a_revision_before_it(text, bare):
    assert is_bare(text) is bare


def test_an_address_reads_as_it_was_written():
    for text in ("org/name", "org/name@v1", "org/name@v1/sub"):
        assert str(source_address(text)) == text


def test_a_place_is_a_repository_and_perhaps_a_branch():
    assert place_problem("me/x") == place_problem("me/x@next") == ""
    assert place_address("me/x@next/1") == Address("me/x", "next/1")
    assert place_problem("me") == (
        "`me` is no repository on the Hub; write `hub:org/name` or `hub:org/name@branch`"
    )


def test_each_place_has_a_folder_of_its_own():
    assert [place_folder(text) for text in ("me/x", "me/x@a/b")] == ["me--x", "me--x--a--b"]
