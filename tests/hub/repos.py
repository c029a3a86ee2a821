"""What a Hub holds: repositories with commits and branches, large files by their sha256, who may do what."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

LARGE = (".safetensors", ".bin", ".gguf")


class Refusal(Exception):
    """What the Hub answers instead: a status and the headers by which its client knows what is meant."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message or code)
        self.status = status
        self.headers = {
            **({"X-Error-Code": code} if code else {}),
            **({"X-Error-Message": message} if message else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }


@dataclass(frozen=True)
class Blob:
    """A file's content: `data` of a small file, or the sha256 of a large one."""

    size: int
    oid: str  # git's
    data: bytes = b""
    sha256: str = ""

    @classmethod
    def small(cls, data: bytes) -> Blob:
        return cls(len(data), git_oid(data), data)

    @classmethod
    def large(cls, sha256: str, size: int) -> Blob:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return cls(size, git_oid(pointer), sha256=sha256)

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    files: dict[str, Blob]
    message: str
    parent: str = ""


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], message: str, branch: str = "main") -> Commit:
        parent = self.branches.get(branch, "")
        listing = "".join(f"{path} {blob.etag}\n" for path, blob in sorted(files.items()))
        text = f"{self.name} {parent} {message} {len(self.commits)}\n{listing}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), files, message, parent)
        self.commits[made.sha] = made
        self.branches[branch] = made.sha
        return made

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[sha]


@dataclass(frozen=True)
class User:
    name: str
    writes: frozenset[str] = frozenset()  # organizations and users whose repositories may be written


@dataclass
class Hub:
    """All repositories, large files in `folder`, users by token. Guarded by one lock.

    A trusting Hub takes large files for what they are announced to be, and keeps only their sizes.
    """

    folder: Path
    repos: dict[str, Repo] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    trusting: bool = False

    def add(
        self, name: str, source: Path | dict[str, bytes], *, branch: str = "main", message: str = "added"
    ) -> Commit:
        """Commit the files of a folder, or given ones, to a repository that is made if it is not there."""
        if isinstance(source, Path):
            found = sorted(path for path in source.rglob("*") if path.is_file())
            source = {path.relative_to(source).as_posix(): path.read_bytes() for path in found}
        repo = self.repos.setdefault(name, Repo(name))
        before = repo.at(branch).files if branch in repo.branches else {}
        added = {path: self._blob(path, data) for path, data in source.items()}
        return repo.commit({**before, **added}, message, branch)

    def _blob(self, path: str, data: bytes) -> Blob:
        if not path.endswith(LARGE):
            return Blob.small(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.large(sha256).write_bytes(data)
        return Blob.large(sha256, len(data))

    def large(self, sha256: str) -> Path:
        return self.folder / sha256

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a revision holds."""
        blobs = self.repos[name].at(revision).files
        return {p: self.large(b.sha256).read_bytes() if b.sha256 else b.data for p, b in blobs.items()}

    def create(self, name: str, *, private: bool) -> Repo:
        repo = self.repos[name] = Repo(name, private)
        repo.commit({".gitattributes": Blob.small(b"*.safetensors filter=lfs\n")}, "initial commit")
        return repo

    def user(self, authorization: str) -> User | None:
        """Return who speaks; None without a token."""
        if not authorization:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self.users:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return self.users[token]

    def readable(self, name: str, user: User | None, *, files: bool = False) -> Repo:
        repo = self.repos.get(name)
        owner = user is not None and name.partition("/")[0] in user.writes
        if repo is None or (repo.private and not owner):
            raise Refusal(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if files and repo.gated and not owner:
            raise Refusal(401 if user is None else 403, "GatedRepo", "Access to this model is restricted")
        return repo

    def writable(self, name: str, user: User | None) -> Repo:
        repo = self.readable(name, user)
        if user is None or name.partition("/")[0] not in user.writes:
            raise Refusal(403, message="Forbidden: you must use a write token")
        return repo
