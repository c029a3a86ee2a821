"""Uploads files while others are still being made: one thread hashes them, one sends those that wait together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
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
        self._queue: queue.SimpleQueue[tuple[Path, str] | None] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[CommitOperationAdd | None] = queue.SimpleQueue()
        self._taken: set[str] = set()
        self._done: dict[str, CommitOperationAdd] = {}
        self._failed: CheckpointError | None = None
        self._now = ""
        self._waiting = self._sending = 0
        self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, path: Path, name: str = "") -> None:
        """Take a file, which is called `name` there (by default as here); returns at once.

        Raises what has made all uploads hopeless before.
        """
        name = name or path.name
        if self._failed is not None:
            raise self._failed
        with self._lock:
            self._waiting += 1
            self._taken.add(name)
            if self._thread is None:
                threading.Thread(target=self._hash, name="hash", daemon=True).start()
                self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
                self._thread.start()
        self._queue.put((path, name))

    def finish(self, files: Mapping[str, Path]) -> list[CommitOperationAdd]:
        """Return the operations that add `files`; takes those that were not taken, tries once more what failed."""
        for name, path in files.items():
            if name not in self._taken:
                self.put(path, name)
        self._join()
        if self._failed is not None:
            raise self._failed
        left = {name: path for name, path in files.items() if name not in self._done}
        if left:
            self._now = _listed(list(left))
            self._upload([_addition(path, name) for name, path in left.items()])
            self._now = ""
        return [self._done[name] for name in files]

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

    def _hash(self) -> None:
        """Hash what is taken; the Hub wants to be told the hashes before the content, and sending goes on meanwhile."""
        try:
            while (taken := self._queue.get()) is not None:
                try:
                    self._hashed.put(_addition(*taken))
                except (OSError, ValueError):  # told when it is tried once more at the end
                    with self._lock:
                        self._waiting -= 1
        finally:
            self._hashed.put(None)  # whatever happened here: who sends must not wait for ever

    def _run(self) -> None:
        while not self._stopped and (operations := self._next()):
            names = [operation.path_in_repo for operation in operations]
            self._now = _listed(names)
            self._sending = len(names)
            try:
                self._upload(operations)
            except CheckpointError as error:
                if _is_final(error):
                    self._failed = error
                    return
            finally:
                self._now = ""
                with self._lock:
                    self._waiting -= len(names)

    def _next(self) -> list[CommitOperationAdd]:
        """Wait for a file and return it with all that wait behind it: they share a line better than they take turns.

        Returns none when there will be no more.
        """
        operations: list[CommitOperationAdd] = []
        while not operations or not self._hashed.empty():
            operation = self._hashed.get()
            if operation is None:
                self._hashed.put(None)  # for the next time
                break
            operations.append(operation)
        return operations

    def _upload(self, operations: list[CommitOperationAdd]) -> None:
        """Send the large files among these, unless the Hub has them; keep the operations that will add all."""
        with told(self._where):
            # an operation is used again when the commit is tried again: it must keep its content
            api().preupload_lfs_files(self._repo, operations, revision=self._branch, free_memory=False)
        self._done |= {operation.path_in_repo: operation for operation in operations}


def _listed(names: list[str]) -> str:
    return f"{len(names)} files" if len(names) > 1 else names[0]


def _addition(path: Path, name: str) -> CommitOperationAdd:
    """Return the operation that adds a file, which is read once for its hash."""
    import huggingface_hub

    operation = huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
    _ = operation.upload_info.sha256  # computed now, kept for when it is sent
    return operation


def _is_final(error: CheckpointError) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            return response.status_code in _FINAL_STATUS
        cause = cause.__cause__
    return False
