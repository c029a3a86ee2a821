"""A Hub on this machine: what huggingface_hub asks of the real one, over HTTP, with switches to misbehave.

The API and the large files are served from two ports: the client follows redirects within one host while it asks
for a file's metadata, and then misses the commit.

    python tests/hub/server.py FOLDER [--rate BYTES_A_SECOND]     prints its address and serves until stdin ends
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hub.repos import LARGE, Blob, Hub, Refusal, Repo, User

BLOCK = 1 << 20
TOKEN = "hf_a_token_that_may_write"
USER = User("me", frozenset({"me", "org"}))


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


class LoopbackHub(Hub):
    """A Hub that serves; `requests` are all that it was asked."""

    def __init__(self, folder: Path, rate: float = 0.0) -> None:
        super().__init__(folder, users={TOKEN: USER})
        folder.mkdir(parents=True, exist_ok=True)
        self.rate = rate
        self.requests: list[Seen] = []
        self.bodies: list[bytes] = []  # of the API; for what must not be in them
        self._switches: list[Switch] = []
        self._servers = [_Server(("127.0.0.1", 0), handler, self) for handler in (_Api, _Store)]
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler], hub: LoopbackHub) -> None:
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone; everything else must be seen."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Cut(ConnectionError):
    """This connection was broken off on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
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
        if self.hub.rate:
            time.sleep(nbytes / self.hub.rate)

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


_REPO = r"([\w.-]+/[\w.-]+)"


class _Api(_Handler):
    routes = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", rf"/api/models/{_REPO}(?:/revision/([^/]+))?", "info"),
        ("GET", rf"/api/models/{_REPO}/tree/([^/]+)(?:/(.+))?", "tree"),
        ("GET", rf"/api/models/{_REPO}/refs", "refs"),
        ("POST", rf"/api/models/{_REPO}/paths-info/([^/]+)", "paths_info"),
        ("POST", rf"/api/models/{_REPO}/branch/([^/]+)", "branch"),
        ("POST", rf"/api/models/{_REPO}/preupload/([^/]+)", "preupload"),
        ("POST", rf"/api/models/{_REPO}/commit/([^/]+)", "commit"),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
        ("POST", rf"/{_REPO}\.git/info/lfs/verify", "verify"),
        ("GET|HEAD", rf"/{_REPO}/resolve/([^/]+)/(.+)", "resolve"),
    )

    def user(self) -> User | None:
        return self.hub.user(self.seen.authorization)

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        orgs = [{"name": name} for name in sorted(user.writes - {user.name})]
        self.reply({"type": "user", "name": user.name, "orgs": orgs})

    def create(self) -> None:
        asked, user = self.body(), self.user()
        if user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        name = f"{asked['organization'] or user.name}/{asked['name']}"
        if name.partition("/")[0] not in user.writes:
            raise Refusal(403, message="You don't have the rights to create a model under this namespace")
        with self.hub.lock:
            made = name not in self.hub.repos
            if made:
                self.hub.create(name, private=asked.get("visibility") == "private")
        self.reply({"url": f"{self.hub.endpoint}/{name}"}, 200 if made else 409)

    def validate(self) -> None:
        self.body()
        self.reply({"errors": [], "warnings": []})

    def info(self, name: str, revision: str) -> None:
        repo = self.hub.readable(name, self.user())
        commit = repo.at(revision or "main")
        full = self.query.get("blobs", "").lower() == "true"
        siblings = [
            {"rfilename": path, **({"size": b.size, "blobId": b.oid, **_lfs(b)} if full else {})}
            for path, b in sorted(commit.files.items())
        ]
        self.reply({"id": name, "sha": commit.sha, "private": repo.private, "siblings": siblings})

    def tree(self, name: str, revision: str, folder: str) -> None:
        commit = self.hub.readable(name, self.user()).at(revision)
        under = f"{folder}/" if folder else ""
        self.reply([_entry(p, b) for p, b in sorted(commit.files.items()) if p.startswith(under)])

    def refs(self, name: str) -> None:
        repo = self.hub.readable(name, self.user())
        found = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": s} for b, s in repo.branches.items()]
        self.reply({"branches": found, "converts": [], "tags": []})

    def paths_info(self, name: str, revision: str) -> None:
        paths = self.body()["paths"]
        commit = self.hub.readable(name, self.user()).at(revision)
        self.reply([_entry(path, commit.files[path]) for path in paths if path in commit.files])

    def branch(self, name: str, branch: str) -> None:
        asked = self.body()
        repo = self.hub.writable(name, self.user())
        with self.hub.lock:
            if branch in repo.branches:
                raise Refusal(409, message="Reference already exists")
            repo.branches[branch] = repo.at(asked.get("startingPoint") or "main").sha
        self.reply({})

    def preupload(self, name: str, revision: str) -> None:
        asked = self.body()["files"]
        commit = self.hub.writable(name, self.user()).at(revision)
        files = []
        for file in asked:
            there = commit.files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            oid = {"oid": there.etag} if there else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self.reply({"files": files})

    def batch(self, name: str) -> None:
        asked = self.body()["objects"]
        self.hub.writable(name, self.user())
        self.reply({"transfer": "basic", "objects": [self._object(name, o["oid"], o["size"]) for o in asked]})

    def _object(self, name: str, oid: str, size: int) -> dict[str, Any]:
        if self.hub.large(oid).exists():
            return {"oid": oid, "size": size}
        actions = {
            "upload": {"href": f"{self.hub.store}/upload/{oid}"},
            "verify": {"href": f"{self.hub.endpoint}/{name}.git/info/lfs/verify"},
        }
        return {"oid": oid, "size": size, "actions": actions}

    def verify(self, name: str) -> None:
        asked = self.body()
        self.hub.writable(name, self.user())
        if not self.hub.large(asked["oid"]).exists():
            raise Refusal(404, message="not uploaded")
        self.reply({})

    def commit(self, name: str, branch: str) -> None:
        data = b"".join(self.blocks())
        self.hub.bodies.append(data)
        lines = [json.loads(line) for line in data.splitlines()]
        repo = self.hub.writable(name, self.user())
        header = lines[0]["value"]
        with self.hub.lock:
            if header.get("parentCommit") not in (None, repo.at(branch).sha):
                raise Refusal(412, message="The branch has moved since the parent commit")
            files = dict(repo.at(branch).files)
            for line in lines[1:]:
                self._apply(repo, files, line["key"], line["value"])
            made = repo.commit(files, header["summary"], branch)
        self.reply({"commitOid": made.sha, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{made.sha}"})

    def _apply(self, repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = Blob.small(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if not self.hub.large(value["oid"]).exists():
                raise Refusal(400, message=f"{value['path']}: its content was never uploaded")
            size = self.hub.large(value["oid"]).stat().st_size
            files[value["path"]] = Blob.large(value["oid"], size)
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            raise Refusal(400, message=f"no such operation: {key}")

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.readable(name, self.user(), files=True)
        commit = repo.at(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.sha)
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"'}
        if blob.sha256:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
            self.send(b"", 302, {**headers, "Location": f"{self.hub.store}/lfs/{blob.sha256}"})
        else:
            self.serve(blob.size, lambda: BytesIO(blob.data), headers)


class _Store(_Handler):
    """Where large files go and come from; it gets no tokens."""

    routes = (("PUT", r"/upload/(\w+)", "upload"), ("GET|HEAD", r"/lfs/(\w+)", "download"))

    def upload(self, sha256: str) -> None:
        hasher, partial = hashlib.sha256(), self.hub.folder / f"{sha256}.{threading.get_ident()}"
        with partial.open("wb") as file:
            for data in self.blocks():
                hasher.update(data)
                file.write(data)
        if hasher.hexdigest() != sha256:
            partial.unlink()
            raise Refusal(400, message="the content is not what was announced")
        partial.rename(self.hub.large(sha256))
        self.send(b"")

    def download(self, sha256: str) -> None:
        path = self.hub.large(sha256)
        if not path.exists():
            raise Refusal(404)
        self.serve(path.stat().st_size, lambda: path.open("rb"), {"ETag": f'"{sha256}"'})


def _lfs(blob: Blob) -> dict[str, Any]:
    if not blob.sha256:
        return {}
    return {"lfs": {"sha256": blob.sha256, "oid": blob.sha256, "size": blob.size, "pointerSize": 134}}


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": blob.size, "oid": blob.oid, **_lfs(blob)}


def main() -> None:
    rate = float(sys.argv[sys.argv.index("--rate") + 1]) if "--rate" in sys.argv else 0.0
    with LoopbackHub(Path(sys.argv[1]), rate).serving() as hub:
        print(hub.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
