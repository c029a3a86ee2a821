"""Outputs that go elsewhere: their publishers get each file as soon as its last tensor is on the disk."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from surgery.checkpoint.base_publisher import Publisher
from surgery.execute.sink import Sink


class Publishing:
    """The publishers of a run's outputs, in its first process; those of other processes have nothing to do."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = [sink for sink in sinks if sink.output.target is not None]
        self._publishers = {id(s): s.output.target.publisher() for s in self._sinks if s.output.target}
        self._missing: dict[int, Counter[str]] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def begin(self) -> None:
        """Find out whether all outputs may be published, before anything is computed."""
        for publisher in self._publishers.values():
            publisher.begin()

    def opened(self) -> None:
        """Count what is missing of every file, and hand over those that an earlier run has completed."""
        for sink in self._sinks:
            places = sink.layout.places
            missing = Counter(places[name].file for name in places if name not in sink.done)
            self._missing[id(sink)] = missing
            for shard in sink.layout.shards:
                if not missing[shard.file]:
                    self._publishers[id(sink)].file_done(sink.folder / shard.file)

    def committed(self, sink: Sink, tensor: str) -> None:
        """Take note of a tensor that is on the disk; the file that it completes is handed over."""
        if id(sink) not in self._publishers:
            return
        file = sink.layout.places[tensor].file
        with self._lock:
            self._missing[id(sink)][file] -= 1
            complete = not self._missing[id(sink)][file]
        if complete:
            self._publishers[id(sink)].file_done(sink.folder / file)

    def finish(self, sink: Sink) -> str:
        """Publish an output whose folder is complete; return where it can be seen, or "" if it stays here."""
        publisher: Publisher | None = self._publishers.get(id(sink))
        return publisher.finish(sink.folder) if publisher is not None else ""

    def doing(self) -> str:
        """Return what is under way, for a line of progress."""
        return ", ".join(doing for publisher in self._publishers.values() if (doing := publisher.doing()))

    def close(self) -> None:
        """Stop what is under way."""
        for publisher in self._publishers.values():
            publisher.close()
