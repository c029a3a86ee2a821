"""Uploads files on a thread of its own, those that wait together, while others are still being made."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import CheckpointError
from surgery_hub.client import api, told

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

# Of these the Hub says that trying again is of no use.
_FINAL_STATUS = frozenset((401, 403, 404))


class Uploads:
    """The large files of one commit. What fails for a passing reason is tried once more at the end."""

    def __init__(self, repo: str, branch: str, where: str) -> None:
        self._repo, self._branch, self._where = repo, branch, where
        self._queue: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._done: dict[str, CommitOperationAdd] = {}
        self._failed: CheckpointError | None = None
        self._now = ""
        self._waiting = self._sending = 0
        self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, path: Path) -> None:
        """Take a file; returns at once. Raises what has made all uploads hopeless before."""
        if self._failed is not None:
            raise self._failed
        with self._lock:
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
                self._thread.start()
        self._queue.put(path)

    def finish(self, paths: list[Path]) -> list[CommitOperationAdd]:
        """Return the operations that add `paths`; uploads those that were not taken or failed before."""
        self._join()
        if self._failed is not None:
            raise self._failed
        left = [path for path in paths if path.name not in self._done]
        if left:
            self._now = f"{len(left)} files"
            self._done |= zip((path.name for path in left), self._upload(*left), strict=True)
            self._now = ""
        return [self._done[path.name] for path in paths]

    def doing(self) -> str:
        """Return what is being uploaded, and how many files wait."""
        now, waiting = self._now, max(self._waiting - self._sending, 0)
        return f"uploading {now}" + (f", {waiting} more" if waiting else "") if now else ""

    def stop(self) -> None:
        """Upload nothing more; a file that is on its way is not waited for."""
        self._stopped = True
        self._queue.put(None)

    def _join(self) -> None:
        self._queue.put(None)
        thread = self._thread
        while thread is not None and thread.is_alive():
            thread.join(0.1)  # so that Ctrl-C is heard

    def _run(self) -> None:
        while not self._stopped and (paths := self._next()):
            self._now = f"{len(paths)} files" if len(paths) > 1 else paths[0].name
            self._sending = len(paths)
            try:
                self._done |= zip((path.name for path in paths), self._upload(*paths), strict=True)
            except CheckpointError as error:
                if _is_final(error):
                    self._failed = error
                    return
            finally:
                self._now = ""
                with self._lock:
                    self._waiting -= len(paths)

    def _next(self) -> list[Path]:
        """Wait for a file and return it with all that wait behind it: they share a line better than they take turns.

        Returns none when there will be no more.
        """
        paths: list[Path] = []
        while not paths or not self._queue.empty():
            path = self._queue.get()
            if path is None:
                self._queue.put(None)  # for the next time
                break
            paths.append(path)
        return paths

    def _upload(self, *paths: Path) -> list[CommitOperationAdd]:
        """Send the large files among these, unless the Hub has them; return the operations that will add all."""
        import huggingface_hub

        operations = [
            huggingface_hub.CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=str(path))
            for path in paths
        ]
        with told(self._where):
            # an operation is used again when the commit is tried again: it must keep its content
            api().preupload_lfs_files(self._repo, operations, revision=self._branch, free_memory=False)
        return operations


def _is_final(error: CheckpointError) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            return response.status_code in _FINAL_STATUS
        cause = cause.__cause__
    return False
