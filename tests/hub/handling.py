"""Requests and answers of the loopback Hub: bodies, ranges, connections kept alive, and what goes wrong on purpose."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.repos import Refusal

if TYPE_CHECKING:
    from tests.hub.server import LoopbackHub

BLOCK = 1 << 20


@dataclass
class Seen:
    """A request: what was asked, and the bytes of both bodies."""

    method: str
    path: str
    range: str = ""
    authorization: str = ""
    received: int = 0
    sent: int = 0
    status: int = 0


@dataclass
class Switch:
    """Something that goes wrong with the next `times` requests whose `METHOD path` matches."""

    match: re.Pattern[str]
    times: int
    status: int = 0  # answer this instead
    headers: dict[str, str] = field(default_factory=dict)
    late: bool = False  # do what is asked first
    after: int = -1  # or break off after so many bytes of the body


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[Handler], hub: LoopbackHub) -> None:
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone; everything else must be seen."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Cut(ConnectionError):
    """This connection was broken off on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    routes: tuple[tuple[str, str, str], ...] = ()

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        authorization = self.headers.get("Authorization", "")
        self.seen = Seen(self.command, url.path, self.headers.get("Range", ""), authorization)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append(self.seen)
        self.switch = self.hub.switched(self.seen)
        self._read = False
        try:
            if self.switch is not None and self.switch.status and not self.switch.late:
                raise Refusal(self.switch.status, **self.switch.headers)
            self._routed(url.path)
        except Refusal as refusal:
            self._drain()
            self.reply({"error": str(refusal)}, refusal.status, refusal.headers)
        except _Cut:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - http.server's names

    def _routed(self, path: str) -> None:
        for method, pattern, name in self.routes:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                getattr(self, name)(*(unquote(part) for part in found.groups(default="")))
                return
        raise Refusal(404, message=f"no such route: {self.command} {path}")

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.switch is not None and self.switch.late:
            status = self.switch.status
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._head(status, {**(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self._write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        after = self.switch.after if self.switch else -1
        if 0 <= after < self.seen.sent + len(data):
            self.wfile.write(data[: after - self.seen.sent])
            self.seen.sent = after
            raise _Cut
        self.wfile.write(data)
        self.seen.sent += len(data)
        self._wait(len(data))

    def _wait(self, nbytes: int) -> None:
        self.hub.carry(nbytes)

    def blocks(self) -> Iterator[bytes]:
        """Yield the request's body, sent whole or in chunks."""
        self._read = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self._take(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from self._take(int(self.headers.get("Content-Length", "0")))

    def _take(self, size: int) -> Iterator[bytes]:
        after = self.switch.after if self.switch else -1
        while size:
            data = self.rfile.read(min(size, BLOCK))
            if not data:
                raise _Cut
            size -= len(data)
            self.seen.received += len(data)
            if 0 <= after <= self.seen.received:
                raise _Cut
            self._wait(len(data))
            yield data

    def _drain(self) -> None:
        """Read what the client sends anyway, so that the connection stays usable."""
        if not self._read:
            for _ in self.blocks():
                pass

    def body(self) -> Any:
        data = b"".join(self.blocks())
        self.hub.bodies.append(data)
        return json.loads(data or b"{}")

    def serve(self, size: int, opened: Callable[[], BinaryIO], headers: dict[str, str]) -> None:
        """Send a file, or the range of it that is asked for."""
        start, end, status = 0, size, 200
        if self.seen.range:
            first, _, last = self.seen.range.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(size - int(last), 0)
            end = min(int(last) + 1, size) if first and last else size
            if start >= size:
                raise Refusal(416, Content_Range=f"bytes */{size}")
            status = 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        self._head(status, {**headers, "Accept-Ranges": "bytes", "Content-Length": str(end - start)})
        if self.command == "HEAD":
            return
        with opened() as file:
            file.seek(start)
            while start < end:
                data = file.read(min(BLOCK, end - start))
                self._write(data)
                start += len(data)
