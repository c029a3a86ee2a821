"""The files of a repository at one commit: from the Hub, or from what its cache holds of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgery.errors import CheckpointError
from surgery_hub.address import Address
from surgery_hub.client import api, cache_folder, endpoint, is_offline, patiently, told

Count = Callable[[int], None]
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file: its size in bytes, and its etag: sha256 of a large file, git's oid of a small one."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of `repo` at the commit `sha`, by their paths; `named` is the address as the user wrote it."""

    named: Address
    sha: str
    files: Mapping[str, RemoteFile]

    @property
    def pinned(self) -> Address:
        """Return the address that names this commit for good."""
        return Address(self.named.repo, self.sha, self.named.path)

    def cached(self, path: str) -> Path | None:
        """Return where a file lies in the cache; None if it does not."""
        found = _snapshot(self.named.repo, self.sha) / path
        return found if found.exists() else None

    def download(self, path: str) -> Path:
        """Return a small file from the cache, fetched if it is not there."""
        found = self.cached(path)
        return found if found is not None else fetch(self, path)

    def url(self, path: str) -> str:
        """Return where a file's bytes can be read."""
        import huggingface_hub

        return huggingface_hub.hf_hub_url(self.named.repo, path, revision=self.sha, endpoint=endpoint())


def fetch(listing: Listing, path: str, count: Count = lambda nbytes: None) -> Path:
    """Return a file, fetched whole into the Hub's cache; `count` is told of bytes as they come.

    Raises CheckpointError, and what `count` raises; what has come is kept there and not fetched again.
    """
    import huggingface_hub

    with told(f"{listing.named.repo}/{path}"):
        return Path(
            huggingface_hub.hf_hub_download(
                listing.named.repo,
                path,
                revision=listing.sha,
                endpoint=endpoint(),
                cache_dir=cache_folder(),
                tqdm_class=_counting(count),
            )
        )


def _counting(count: Count) -> Any:
    """Return the client's progress bar, which draws nothing and counts."""
    from huggingface_hub.utils.tqdm import tqdm

    class Counting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            count(int(n or 0))

    return Counting


def list_files(address: Address) -> Listing:
    """Return the files of a repository and the commit that its revision is now. One request, or none offline."""
    return _from_cache(address) if is_offline() else _from_hub(address)


def _from_hub(address: Address) -> Listing:
    with told(address):
        info = patiently(
            lambda: api().model_info(address.repo, revision=address.revision, files_metadata=True)
        )
    files = {
        sibling.rfilename: RemoteFile(
            sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or ""
        )
        for sibling in info.siblings or ()
    }
    assert info.sha is not None
    listing = Listing(address, info.sha, files)
    _remember(listing)
    return listing


def _remember(listing: Listing) -> None:
    """Note in the cache which commit a branch or tag is, as the client does: so that it is found offline."""
    revision = listing.named.revision or "main"
    if _COMMIT.fullmatch(revision):
        return
    ref = _home(listing.named.repo) / "refs" / revision
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(listing.sha)
    except OSError:  # a cache that cannot be written to: everything but offline use works without
        return


def _from_cache(address: Address) -> Listing:
    revision = address.revision or "main"
    ref = _home(address.repo) / "refs" / revision
    sha = revision if _COMMIT.fullmatch(revision) else ref.read_text().strip() if ref.is_file() else ""
    folder = _snapshot(address.repo, sha)
    if not sha or not folder.is_dir():
        raise CheckpointError(
            f"{address}: is not in the Hub's cache, and HF_HUB_OFFLINE is set;"
            " fetch it before, or unset HF_HUB_OFFLINE"
        )
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _of_cached(path) for path in found}
    return Listing(address, sha, files)


def _of_cached(path: Path) -> RemoteFile:
    """Return a cached file; the cache names its content by the etag, but where there are no links it does not."""
    blob = Path(os.path.realpath(path))
    status = blob.stat()
    known = blob.parent.name == "blobs"
    return RemoteFile(status.st_size, blob.name if known else f"{status.st_mtime_ns}-{status.st_ino}")


def _home(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _snapshot(repo: str, sha: str) -> Path:
    return _home(repo) / "snapshots" / sha
