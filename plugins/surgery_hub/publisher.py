"""Publishes an output as one commit: large files are sent while others are computed, nothing is visible before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery import __version__
from surgery.checkpoint.base_publisher import Publisher
from surgery.checkpoint.sidecars import sidecars_in
from surgery.errors import CheckpointError
from surgery_hub.address import place_address
from surgery_hub.client import api, endpoint, is_offline, patiently, told
from surgery_hub.uploads import Uploads

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MOVED: Final = 412
# Weights of an earlier model in the same place: beside the new ones they would be taken for parts of it.
_WEIGHTS: Final = (".safetensors", ".safetensors.index.json")


def open_publisher(text: str, private: bool) -> Publisher:
    """Return the publisher of `org/name[@branch]`."""
    return HubPublisher(text, private)


class HubPublisher(Publisher):
    """One commit to a branch of a repository, both made if they are not there."""

    def __init__(self, text: str, private: bool = False) -> None:
        address = place_address(text)
        self.place = f"hub:{text}"
        self._repo, self._branch, self._private = address.repo, address.revision or "main", private
        self._uploads = Uploads(self._repo, self._branch, self.place)
        self._parent = ""
        self._quiet = ExitStack()

    def begin(self) -> None:
        """Find out whose token this is, make the repository and the branch, and ask whether it may write there."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.utils import disable_progress_bars

        if is_offline():
            raise CheckpointError(
                f"{self.place}: cannot be published to, HF_HUB_OFFLINE is set; unset it, or write to a folder"
            )
        self._quiet.enter_context(disable_progress_bars())
        hub = api()
        with told(self.place):
            patiently(hub.whoami)
            if not patiently(lambda: hub.repo_exists(self._repo)):
                patiently(lambda: hub.create_repo(self._repo, private=self._private or None, exist_ok=True))
            if self._branch != "main":
                patiently(lambda: hub.create_branch(self._repo, branch=self._branch, exist_ok=True))
            # nothing is sent of so small a file, but the Hub says whether this token may write
            probe = CommitOperationAdd("config.json", b"{}")
            hub.preupload_lfs_files(self._repo, [probe], revision=self._branch)
            self._parent = self._head(hub)

    def file_done(self, path: Path) -> None:
        """Take a file that is complete; it is uploaded behind."""
        self._uploads.put(path)

    def finish(self, folder: Path) -> str:
        """Upload what is missing, make the commit, and return its repository's page."""
        import huggingface_hub

        files = _files(folder)
        added = self._uploads.finish(files)
        with told(self.place):
            stale = self._stale(files.keys())
            removed = [huggingface_hub.CommitOperationDelete(name) for name in stale]
            patiently(lambda: self._commit([*removed, *added]))
        tree = f"/tree/{self._branch}" if self._branch != "main" else ""
        return f"{endpoint()}/{self._repo}{tree}"

    def doing(self) -> str:
        """Return what is being uploaded."""
        return self._uploads.doing()

    def close(self) -> None:
        """Upload nothing more."""
        self._uploads.stop()
        self._quiet.close()

    def _head(self, hub: HfApi) -> str:
        sha = patiently(lambda: hub.model_info(self._repo, revision=self._branch)).sha
        assert sha is not None
        return sha

    def _stale(self, new: Collection[str]) -> list[str]:
        """Return the weight files of the model that was there before."""
        info = patiently(lambda: api().model_info(self._repo, revision=self._parent))
        names = [sibling.rfilename for sibling in info.siblings or ()]
        return sorted(n for n in names if n.endswith(_WEIGHTS) and "/" not in n and n not in new)

    def _commit(self, operations: Sequence[Any]) -> None:
        """Make the commit on the branch as it was when the run began."""
        from huggingface_hub.errors import HfHubHTTPError

        hub = api()
        try:
            hub.create_commit(
                self._repo,
                operations,
                commit_message=f"Upload with model-surgery {__version__}",
                revision=self._branch,
                parent_commit=self._parent,
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            # of a commit whose answer was lost on the way, a second one would be refused
            if (status == _MOVED or status >= 500) and self._is_there(hub, operations):
                return
            if status == _MOVED:
                raise CheckpointError(
                    f"{self.place}: the branch `{self._branch}` was changed while the run was going on;"
                    " look at what was changed, then run again: what is uploaded is not sent again"
                ) from error
            raise

    def _is_there(self, hub: HfApi, operations: Sequence[Any]) -> bool:
        """Return whether the branch's head holds exactly what the operations add, and not what they remove."""
        info = patiently(lambda: hub.model_info(self._repo, revision=self._branch, files_metadata=True))
        if info.sha == self._parent:
            return False
        there = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or ()}
        return all(there.get(one.path_in_repo) == getattr(one, "_local_oid", None) for one in operations)


def _files(folder: Path) -> dict[str, Path]:
    """Return what is published of a folder by the names there: its files, and those of a model's further modules."""
    inner = sidecars_in(folder)
    files = {path.name: path for path in folder.iterdir() if path.is_file()} | inner
    return dict(sorted(files.items()))
