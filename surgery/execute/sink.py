"""One output on its way to the disk: tensors are written at their final places, hashed on the way, then journaled."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import xxhash

from surgery.checkpoint.hashing import PIECE, hash_stretch
from surgery.checkpoint.journal import Entry, Journal
from surgery.checkpoint.layout import ShardLayout
from surgery.checkpoint.writer import SafetensorsWriter
from surgery.errors import ResourceError
from surgery.notes import Noted
from surgery.plan.destinations import partial_folder
from surgery.plan.model import Output
from surgery.tensors import TensorSpec

# The run's own files, in a folder of the partial one: a rename that is cut short leaves nothing that looks wrong.
WORK = ".surgery"


class Writing:
    """A tensor being written: complete when all of its pieces are."""

    def __init__(self, sink: Sink, spec: TensorSpec) -> None:
        self.sink = sink
        self.spec = spec
        self.notes: tuple[Noted, ...] = ()
        self._digests = [b""] * -(-spec.nbytes // PIECE)
        self._missing = max(
            len(self._digests), 1
        )  # a tensor without bytes is complete after its only stretch
        self._lock = threading.Lock()

    def stretch(self, start: int) -> Stretch:
        """Begin writing from byte `start`, which begins a piece."""
        return Stretch(self, start)

    def piece(self, index: int, digest: bytes) -> bool:
        """Note that a piece is written; return whether it was the last."""
        with self._lock:
            if self._digests:
                self._digests[index] = digest
            self._missing -= 1
            return self._missing == 0

    def hexdigest(self) -> str:
        """Return the tensor's hash."""
        return xxhash.xxh3_128_hexdigest(b"".join(self._digests))


class Stretch:
    """Consecutive bytes of a tensor, written and hashed by one worker in order."""

    __slots__ = ("_at", "_complete", "_hasher", "_in_piece", "_writing")

    def __init__(self, writing: Writing, start: int) -> None:
        assert start % PIECE == 0
        self._writing = writing
        self._at = start
        self._in_piece = 0
        self._hasher = xxhash.xxh3_128()
        self._complete = False

    def write(self, data: memoryview) -> None:
        """Write bytes where the last ones ended."""
        self._writing.sink.writer.write_at(self._writing.spec.name, self._at, data)
        while data:
            part = data[: PIECE - self._in_piece]
            self._hasher.update(part)
            self._in_piece += len(part)
            self._at += len(part)
            data = data[len(part) :]
            if self._in_piece == PIECE:
                self._end_piece()

    def close(self) -> bool:
        """End the stretch; return whether the whole tensor is written now."""
        if self._in_piece or self._writing.spec.nbytes == 0:
            self._end_piece()
        return self._complete

    def _end_piece(self) -> None:
        self._writing.sink.writer.flush_soon(
            self._writing.spec.name, self._at - self._in_piece, self._in_piece
        )
        index = max(self._at - 1, 0) // PIECE
        self._complete = self._writing.piece(index, self._hasher.digest())
        self._hasher.reset()
        self._in_piece = 0


class Sink:
    """The partial folder of one output: files at full size, a journal of what is safely on disk, a lock."""

    def __init__(self, output: Output, layout: ShardLayout, digests: Mapping[str, str]) -> None:
        assert output.folder is not None
        self.digests = digests
        self.output = output
        self.layout = layout
        self.folder = partial_folder(output.folder)
        self._work = self.folder / WORK
        self.writer = SafetensorsWriter(self.folder, layout)
        self.done: dict[str, Entry] = {}
        self._journal: Journal | None = None
        self._lock: int | None = None

    @property
    def work_folder(self) -> Path:
        """Return the folder for what a run keeps for the next one until it has published."""
        return self._work

    def lock(self) -> None:
        """Claim the folder for this run. Raises ResourceError when another run is writing here."""
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._work / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: cannot be made: {error.strerror}; write somewhere else"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a run that ended just now took the file that was opened away with its folder
            same = os.path.samestat(os.fstat(self._lock), os.stat(self._work / "lock"))
        except (BlockingIOError, FileNotFoundError):
            same = False
        except OSError as error:
            raise ResourceError(
                f"{self.folder}: cannot be locked: {error.strerror}; write to another file system"
            ) from error
        if not same:
            raise ResourceError(
                f"{self.folder}: another run is writing here; wait for it, or write somewhere else"
            )

    def open(self, *, resume: bool) -> None:
        """Make the files, or open what an interrupted run left and keep those of its tensors that still hold."""
        if not resume:
            self._clear(self.folder)
            for folder in self._work.iterdir():
                if folder.is_dir():
                    shutil.rmtree(folder)
        self._clear(self.folder, keep={shard.file for shard in self.layout.shards})
        kept = self.writer.create()
        earlier = [entry for file in self._journals() for entry in Journal(file).load()] if resume else []
        places = self.layout.places
        candidates = [entry for entry in earlier if entry.name in places and places[entry.name].file in kept]
        self.done = {entry.name: entry for entry in candidates if self._holds(entry)}
        self._begin_journal(0)

    def join(self, done: dict[str, Entry], rank: int) -> None:
        """Open the files that the first process made, in another process."""
        self.done = done
        self.writer.create()
        self._begin_journal(rank)

    def _begin_journal(self, rank: int) -> None:
        """Start this process's journal, in the first one with what is kept of earlier ones."""
        file = self._work / f"journal-{rank}.jsonl"
        if rank == 0:
            new = self._work / "journal.new"
            new.unlink(missing_ok=True)
            fresh = Journal(new)
            fresh.append(list(self.done.values()))
            fresh.close()
            os.replace(new, file)
            for stale in self._journals():
                if stale != file:
                    stale.unlink()
        self._journal = Journal(file)

    def _journals(self) -> list[Path]:
        return sorted(self._work.glob("journal-*.jsonl"))

    def _holds(self, entry: Entry) -> bool:
        """Return whether a journaled tensor is what this plan wants and its bytes are still what was journaled."""
        if self.digests.get(entry.name) != entry.digest or entry.piece != PIECE:
            return False
        size = self.layout.places[entry.name].nbytes
        return (
            hash_stretch(lambda at, buffer: self.writer.read_back(entry.name, at, buffer), size) == entry.xxh3
        )

    @staticmethod
    def _clear(folder: Path, keep: Container[str] = ()) -> None:
        """Remove files that an earlier run of another plan left."""
        for file in folder.iterdir():
            if file.is_file() and file.name not in keep:
                file.unlink()

    def begin(self, spec: TensorSpec) -> Writing:
        """Begin writing a tensor."""
        return Writing(self, spec)

    def commit(self, entries: Iterable[Entry]) -> None:
        """Bring tensors to the disk, then journal them."""
        entries = list(entries)
        self.writer.sync([entry.name for entry in entries])
        assert self._journal is not None
        self._journal.append(entries)
        self.done |= {entry.name: entry for entry in entries}

    def close(self) -> None:
        """Close files and give up the claim; what was journaled stays for a later run."""
        self.writer.close()
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
