from __future__ import annotations

import json

import pytest

from surgery.checkpoint.folder import Found, Naming, check_index, find_files, read_index, report
from surgery.errors import CheckpointError

NAMING = Naming("model", ".safetensors", "[!.]*.safetensors")


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes files: empty, or an index given as its weight map."""

    def make(*names, **indexes):
        for name in names:
            (tmp_path / name).touch()
        for stem, weight_map in indexes.items():
            text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
            (tmp_path / f"{stem}.safetensors.index.json").write_text(text)
        return tmp_path

    return make


def _names(found: Found) -> list[str]:
    return [path.name for path in found.files]


def _error(call, *arguments) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


def test_one_file_is_the_model(folder):
    assert _names(find_files(folder("model.safetensors", "consolidated.safetensors"), NAMING)) == [
        "model.safetensors"
    ]


def test_an_index_names_the_files_and_others_are_none_of_the_model(folder):
    path = folder(
        "s1.safetensors", "s2.safetensors", "consolidated.safetensors", model={"a": "s2.safetensors"}
    )
    found = find_files(path, NAMING)
    assert found == Found(
        (path / "s2.safetensors",), path / "model.safetensors.index.json", {"a": "s2.safetensors"}
    )


def test_the_only_index_counts_under_any_name(folder):
    path = folder("x.safetensors", "y.safetensors", diffusion_pytorch_model={"a": "x.safetensors"})
    assert _names(find_files(path, NAMING)) == ["x.safetensors"]


def test_without_an_index_several_files_are_a_union_of_visible_files(folder):
    path = folder("b.safetensors", "a.safetensors", "._a.safetensors", "notes.txt")
    assert find_files(path, NAMING) == Found((path / "a.safetensors", path / "b.safetensors"))


def test_a_folder_without_files_of_the_format_has_none(folder):
    assert find_files(folder("notes.txt"), NAMING) == Found(())


def test_a_single_file_may_have_an_index_that_lists_it(folder):
    path = folder("model.safetensors", model={"a": "model.safetensors"})
    assert _names(find_files(path, NAMING)) == ["model.safetensors"]


def test_a_file_and_an_index_that_does_not_list_it_contradict_each_other(folder):
    path = folder("model.safetensors", "s1.safetensors", model={"a": "s1.safetensors"})
    assert _error(find_files, path, NAMING) == [
        f"{path}: has both `model.safetensors` and `model.safetensors.index.json`, which does not list it;"
        " remove the one that is out of date, or name the file itself"
    ]


def test_shards_that_the_names_of_others_promise_are_missed(folder):
    path = folder("model-00002-of-00004.safetensors", "model-00004-of-00004.safetensors")
    assert _error(find_files, path, NAMING) == [
        f"{path}: `model-00001-of-00004.safetensors` is missing",
        f"{path}: `model-00003-of-00004.safetensors` is missing",
    ]


def test_all_shards_that_an_index_lists_and_that_are_missing_are_named(folder):
    path = folder(
        "s1.safetensors", model={"a": "s3.safetensors", "b": "s1.safetensors", "c": "s2.safetensors"}
    )
    index = path / "model.safetensors.index.json"
    assert _error(find_files, path, NAMING) == [
        f"{index}: `s2.safetensors` is missing",
        f"{index}: `s3.safetensors` is missing",
    ]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\x", "..", ".", "", "C:x", "a\0b"],
)
def test_an_index_cannot_reach_outside_its_folder(folder, name):
    path = folder(model={"a": name})
    index = path / "model.safetensors.index.json"
    assert _error(read_index, index) == [
        f"{index}: tensor `a`: file must be a plain name in the same folder, got `{name!r}`"
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{}", ": `weight_map` must be an object, got null"),
        ('{"weight_map": []}', ": `weight_map` must be an object, got an array"),
        ('{"weight_map": {"a": 1}}', ": tensor `a`: file must be a string, got an integer"),
        (
            '{"weight_map": {"a": "x", "a": "y"}}',
            " is not acceptable JSON: key `a` appears twice; the file is damaged or hostile",
        ),
        ("[1]", " must be a JSON object, got an array; the file is damaged"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, what):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    assert _error(read_index, path) == [f"{path}{what}"]


def test_an_index_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    with path.open("wb") as file:
        file.truncate(10**9)
    assert _error(read_index, path) == [
        f"{path}: has 1000000000 bytes, an index has at most 100000000; it is damaged"
    ]


def test_index_and_headers_that_agree_pass(tmp_path):
    found = Found((tmp_path / "x", tmp_path / "y"), tmp_path / "i", {"a": "x", "b": "y"})
    check_index(found, {"x": ["a"], "y": ["b"]})


def test_all_contradictions_of_index_and_headers_are_listed(tmp_path):
    index = tmp_path / "i"
    found = Found((tmp_path / "x", tmp_path / "y"), index, {"a": "x", "b": "x", "c": "y"})
    assert _error(check_index, found, {"x": ["a", "new"], "y": ["a", "b"]}) == [
        f"{index}: tensor `b` is not in `x`, where the index puts it",
        f"{index}: tensor `c` is not in `y`, where the index puts it",
        f"{index}: tensor `new` is in `x`, but the index does not list it",
        f"{index}: tensor `a` is in `y`, but the index puts it in `x`",
        f"{index}: tensor `b` is in `y`, but the index puts it in `x`",
    ]


def test_a_tensor_in_two_files_of_a_union_is_an_error(tmp_path):
    found = Found((tmp_path / "x", tmp_path / "y"))
    assert _error(check_index, found, {"x": ["a", "b"], "y": ["b"]}) == [
        f"{tmp_path}: tensor `b` is in `x` and in `y`",
        f"{tmp_path}: the files are not parts of one model: name the one that is meant",
    ]


@pytest.mark.parametrize(("count", "last"), [(20, "f: problem 19"), (21, "f: and 2 more like these")])
def test_at_most_twenty_lines_of_problems_are_reported(tmp_path, count, last):
    lines = _error(report, "f", [f"problem {i}" for i in range(count)])
    assert len(lines) == 20
    assert lines[-1] == last


def test_no_problem_is_no_error():
    report("f", ["", ""])
