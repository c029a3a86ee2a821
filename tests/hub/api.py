"""The loopback Hub's routes: what huggingface_hub asks for, and where large files go and come from."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from tests.hub.handling import Handler
from tests.hub.repos import LARGE, Blob, Refusal, Repo, User

_REPO = r"([\w.-]+/[\w.-]+)"


class Api(Handler):
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
        paths = parse_qs(b"".join(self.blocks()).decode())["paths"]  # a form, unlike all others
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


class Store(Handler):
    """Where large files go and come from; it gets no tokens."""

    routes = (("PUT", r"/upload/(\w+)", "upload"), ("GET|HEAD", r"/lfs/(\w+)", "download"))

    def upload(self, sha256: str) -> None:
        hasher, partial = hashlib.sha256(), self.hub.folder / f"{sha256}.{threading.get_ident()}"
        trusting = self.hub.trusting
        with partial.open("wb") as file:
            if trusting:
                file.truncate(sum(map(len, self.blocks())))
            for data in () if trusting else self.blocks():
                hasher.update(data)
                file.write(data)
        if not trusting and hasher.hexdigest() != sha256:
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
