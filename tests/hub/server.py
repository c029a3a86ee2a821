"""A Hub on this machine: what huggingface_hub asks of the real one, over HTTP, with switches to misbehave.

The API and the large files are served from two ports: the client follows redirects within one host while it asks
for a file's metadata, and then misses the commit.

    python tests/hub/server.py FOLDER [--rate BYTES_A_SECOND] [--trusting]

prints its address and serves until stdin ends. A trusting Hub neither hashes nor keeps large files: a measurement
against it then pays for the line, not for what a distant machine does.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hub.api import Api, Store
from tests.hub.handling import Seen, Server, Switch
from tests.hub.repos import Hub, User

TOKEN = "hf_a_token_that_may_write"
USER = User("me", frozenset({"me", "org"}))


class LoopbackHub(Hub):
    """A Hub that serves; `requests` are all that it was asked."""

    def __init__(self, folder: Path, rate: float = 0.0, *, trusting: bool = False) -> None:
        super().__init__(folder, users={TOKEN: USER}, trusting=trusting)
        folder.mkdir(parents=True, exist_ok=True)
        self.rate = rate  # bytes a second that the line carries, which all connections share; 0: no limit
        self._line_free_at, self._line = 0.0, threading.Lock()
        self.requests: list[Seen] = []
        self.bodies: list[bytes] = []  # of the API; for what must not be in them
        self._switches: list[Switch] = []
        self._servers = [Server(("127.0.0.1", 0), handler, self) for handler in (Api, Store)]
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def carry(self, nbytes: int) -> None:
        """Return when the line has carried these bytes, after those that others gave it before."""
        if not self.rate:
            return
        with self._line:
            self._line_free_at = max(self._line_free_at, time.monotonic()) + nbytes / self.rate
            wait = self._line_free_at - time.monotonic()
        time.sleep(max(wait, 0.0))

    @contextmanager
    def serving(self) -> Iterator[LoopbackHub]:
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(self._servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()

    def fail(self, status: int, match: str = "", times: int = 1, late: bool = False, **headers: str) -> None:
        """Answer the next requests that match with a status; `Retry_After="1"` becomes a header.

        late  do what is asked and only answer so, as when an answer is lost between servers
        """
        self._switches.append(Switch(re.compile(match), times, status, headers, late))

    def cut(self, after: int, match: str = "", times: int = 1) -> None:
        """Break the connections of the next requests that match, after so many bytes of what is carried."""
        self._switches.append(Switch(re.compile(match), times, after=after))

    def switched(self, seen: Seen) -> Switch | None:
        with self.lock:
            for switch in self._switches:
                if switch.times and switch.match.search(f"{seen.method} {seen.path}"):
                    switch.times -= 1
                    return switch
        return None

    def count(self, match: str) -> int:
        """Return how many requests matched."""
        return sum(bool(re.search(match, f"{seen.method} {seen.path}")) for seen in list(self.requests))

    def moved(self, match: str = "") -> int:
        """Return the bytes that requests which match carried, both ways."""
        seen = [s for s in list(self.requests) if re.search(match, f"{s.method} {s.path}")]
        return sum(one.sent + one.received for one in seen)


def main() -> None:
    rate = float(sys.argv[sys.argv.index("--rate") + 1]) if "--rate" in sys.argv else 0.0
    with LoopbackHub(Path(sys.argv[1]), rate, trusting="--trusting" in sys.argv).serving() as hub:
        print(hub.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
