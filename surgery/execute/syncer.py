"""Write-behind: finished tensors are brought to the disk in batches by a thread of its own, then journaled."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from surgery.checkpoint.journal import Entry
from surgery.execute.sink import Sink, Writing

BATCH_BYTES = 256 * 2**20
BATCH_SECONDS = 1.0
WAITED_FOR = 0.2  # seconds between commits when finished files are waited for, to be uploaded


class Syncer:
    """Takes finished tensors and commits them every 256 MiB or every so many seconds."""

    def __init__(self, committed: Callable[[Sink, Entry], None], *, waited_for: bool = False) -> None:
        """`waited_for`: files are to be published as soon as they are complete."""
        self._committed = committed
        self._seconds = WAITED_FOR if waited_for else BATCH_SECONDS
        self._queue: queue.SimpleQueue[Writing | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="syncer", daemon=True).start()

    def done(self, writing: Writing) -> None:
        """Hand over a tensor whose bytes have all been written."""
        if self._error is not None:
            raise self._error
        self._queue.put(writing)

    def close(self) -> None:
        """Commit what is left and stop. Raises what a commit raised."""
        self._queue.put(None)
        try:
            self._ended.wait()  # not `join`, see Crew.run
        except KeyboardInterrupt:
            self._ended.wait()
            raise
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._collect()
        finally:
            self._ended.set()

    def _collect(self) -> None:
        waiting: list[Writing] = []
        size = 0
        since = time.monotonic()
        while True:
            try:
                writing = self._queue.get(timeout=self._seconds)
            except queue.Empty:
                writing = None
                ended = False
            else:
                ended = writing is None
            if writing is not None:
                waiting.append(writing)
                size += writing.spec.nbytes
            due = size >= BATCH_BYTES or time.monotonic() - since >= self._seconds
            if waiting and (ended or due):
                self._commit(waiting)
                waiting, size, since = [], 0, time.monotonic()
            if ended:
                return

    def _commit(self, waiting: list[Writing]) -> None:
        by_sink: dict[int, list[Writing]] = {}
        for writing in waiting:
            by_sink.setdefault(id(writing.sink), []).append(writing)
        try:
            for writings in by_sink.values():
                sink = writings[0].sink
                entries = [self._entry(writing) for writing in writings]
                sink.commit(entries)
                for entry in entries:
                    self._committed(sink, entry)
        except BaseException as error:  # given to whoever hands over the next tensor, or closes
            self._error = error

    def _entry(self, writing: Writing) -> Entry:
        name = writing.spec.name
        digest = writing.sink.digests[name]
        return Entry(name, digest, writing.hexdigest(), writing.spec.nbytes, notes=writing.notes)
