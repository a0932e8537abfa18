"""What a hub keeps: repositories with commits and refs, and the contents of their files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Refused(Exception):
    """A request that the hub does not grant: a status, what it says, and the code that the client looks for."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """A file's content by its checksums: git's for small ones, SHA-256 besides for those in large-file storage."""

    size: int
    oid: str
    sha256: str | None = None

    def in_tree(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256 is not None:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    tree: dict[str, Blob]
    author: str


@dataclass
class Repository:
    """`refs` has branches by name, and pull requests as refs/pr/N."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: list[dict[str, Any]] = field(default_factory=list)

    def resolve(self, revision: str) -> Commit:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, "no such revision", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, revision: str, title: str, tree: dict[str, Blob], author: str) -> Commit:
        parent = self.refs.get(revision)
        listed = sorted((path, blob.oid) for path, blob in tree.items())
        oid = hashlib.sha1(json.dumps([parent, title, listed, len(self.commits)]).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, tree, author)
        self.refs[revision] = oid
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, the latest first."""
        commits = [self.resolve(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits


class Store:
    """All contents, by their checksums. Those that came by Xet are put together when they are first read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cas = folder / "cas"
        (folder / "objects").mkdir(parents=True)
        self.cas.mkdir()
        self._lock = threading.Lock()

    def add(self, data: bytes, name: str) -> None:
        (self.folder / "objects" / name).write_bytes(data)

    def add_small(self, data: bytes) -> Blob:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.add(data, oid)
        return Blob(len(data), oid)

    def large(self, sha256: str, size: int) -> Blob:
        """A file in large-file storage, whose git checksum is that of a pointer."""
        if not self.has(sha256):
            raise Refused(400, f"the content of {sha256} was never uploaded")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode()).hexdigest()
        return Blob(size, oid, sha256)

    def has(self, name: str) -> bool:
        from hub.xet import xet_files

        return (self.folder / "objects" / name).is_file() or name in xet_files(self.cas)

    def xet_hash(self, sha256: str | None) -> str | None:
        from hub.xet import xet_files

        return None if sha256 is None else xet_files(self.cas).get(sha256, (None, 0))[0]

    def read(self, blob: Blob) -> bytes:
        from hub.xet import put_together

        path = self.folder / "objects" / (blob.sha256 or blob.oid)
        with self._lock:
            if not path.is_file():
                assert blob.sha256 is not None
                put_together(self.cas, blob.sha256, path)
        return path.read_bytes()


def changed(tree: dict[str, Blob], lines: Iterable[dict[str, Any]], store: Store) -> dict[str, Blob]:
    """The tree after the operations of a commit."""
    import base64

    tree = dict(tree)
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            tree[value["path"]] = store.add_small(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            tree[value["path"]] = store.large(value["oid"], value["size"])
        elif line["key"] == "deletedFile":
            if value["path"] not in tree:
                raise Refused(404, f"no file {value['path']} to delete", "EntryNotFound")
            del tree[value["path"]]
        else:
            raise Refused(400, f"unknown operation {line['key']}")
    return tree
