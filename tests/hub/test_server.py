"""The loopback Hub answers as the real one does, as far as its client can tell."""

from __future__ import annotations

import os

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from surgery.testing.tiny import save_tiny
from tests.hub.fixtures import hub

__all__ = ["hub"]


@pytest.fixture
def api(hub):
    with disable_progress_bars():
        yield HfApi(endpoint=hub.endpoint)


def test_a_folder_goes_up_and_comes_down_the_same(hub, api, tmp_path):
    made = save_tiny(tmp_path / "made")
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=made)
    found = snapshot_download("me/x", endpoint=hub.endpoint)
    for file in made.iterdir():
        assert (type(made)(found) / file.name).read_bytes() == file.read_bytes()
    assert len(api.get_safetensors_metadata("me/x").weight_map) == 21


def test_the_same_folder_twice_is_one_commit(hub, api, tmp_path):
    made = save_tiny(tmp_path / "made")
    api.create_repo("me/x")
    first = api.upload_folder(repo_id="me/x", folder_path=made)
    assert api.upload_folder(repo_id="me/x", folder_path=made).oid == first.oid


def test_the_tree_and_single_paths_say_the_same(hub, api):
    hub.add("org/x", {"a/model.safetensors": b"123", "b.txt": b"4"})
    tree = {entry.path: entry for entry in api.list_repo_tree("org/x", recursive=True)}
    assert {path: entry.size for path, entry in tree.items()} == {"a/model.safetensors": 3, "b.txt": 1}
    assert api.get_paths_info("org/x", ["a/model.safetensors"])[0].lfs == tree["a/model.safetensors"].lfs


def test_a_commit_on_a_head_that_moved_is_412(hub, api):
    head = hub.add("me/x", {"a": b"1"}).sha
    hub.add("me/x", {"a": b"2"})
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a", repo_id="me/x", parent_commit=head)
    assert error.value.response.status_code == 412
    assert hub.files("me/x") == {"a": b"2"}


def test_a_download_that_breaks_off_is_finished(hub, api, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    data = os.urandom(3_000_000)
    hub.add("org/x", {"a.bin": data})
    hub.cut(1_000_000, "GET /lfs")
    with open(hf_hub_download("org/x", "a.bin", endpoint=hub.endpoint), "rb") as file:
        assert file.read() == data
    assert hub.count("GET /lfs") == 2


def test_who_may_not_read_is_told_as_by_the_real_one(hub, api):
    hub.add("other/x", {"a": b"1"})
    hub.repos["other/x"].gated = True
    with pytest.raises(GatedRepoError):
        hf_hub_download("other/x", "a", endpoint=hub.endpoint)
    hub.repos["other/x"].private = True
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("other/x")


def test_content_that_is_not_what_was_announced_is_refused(hub):
    import http.client

    connection = http.client.HTTPConnection(hub.store.removeprefix("http://"))
    connection.request("PUT", "/upload/" + "0" * 64, body=b"something else")
    assert connection.getresponse().status == 400
    connection.close()
