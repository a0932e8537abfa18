"""What goes to the Hub: each file by its name there, with its size and checksums, and which of its files are ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_BLOCK = 1 << 20

# The files that a push may delete: those that an earlier push made.
_OURS = re.compile(
    r"(?:raw/)?train-\d{5}(?:-[0-9a-f]{8})?\.parquet|(?:raw/)?\.manifest\.json|figures/[a-z-]+\.png|checksums\.json"
)
# What the Hub makes by itself, and what an owner may add to any repository: never ours to delete.
_OF_ANYBODY = re.compile(
    r"\.gitattributes|\.gitignore|README\.md|(?:LICENSE|LICENCE|NOTICE|COPYING)(?:\.md|\.txt)?|CITATION\.cff"
)
MANIFESTS = (".manifest.json", "raw/.manifest.json")
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Item:
    """A file to push: its `path` there, and its bytes or the file that they are in."""

    path: str
    content: bytes | Path
    size: int
    sha256: str
    git: str
    """The checksum that git gives it, by which small files are known."""

    @classmethod
    def of(cls, path: str, content: bytes | Path) -> Item:
        """The file with its checksums. Raises OSError."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if isinstance(content, bytes):
            sha256.update(content)
            git.update(content)
        else:
            with content.open("rb") as file:
                while block := file.read(_BLOCK):
                    sha256.update(block)
                    git.update(block)
        return cls(path, content, size, sha256.hexdigest(), git.hexdigest())

    def is_same(self, there: RepoFile) -> bool:
        """Whether the file on the Hub has these bytes."""
        if there.lfs is not None:
            return bool(there.lfs.sha256 == self.sha256 and there.lfs.size == self.size)
        return bool(there.blob_id == self.git and there.size == self.size)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be done so that a repository has the items: files to send, and earlier ones of ours to delete."""

    add: tuple[Item, ...]
    delete: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.add or self.delete)


def difference(items: Iterable[Item], there: Mapping[str, RepoFile], *, alone: bool = True) -> Difference:
    """What a repository with the files `there` lacks and, where the items are to be `alone`, has too much."""
    items = tuple(items)
    wanted = {item.path for item in items}
    add = tuple(item for item in items if item.path not in there or not item.is_same(there[item.path]))
    extra = [path for path in there if _OURS.fullmatch(path) and path not in wanted]
    delete = tuple(sorted(extra)) if alone else ()
    return Difference(add, delete)


def others(paths: Iterable[str]) -> list[str]:
    """The files among these that neither a push made nor any repository has."""
    return sorted(path for path in paths if not _OURS.fullmatch(path) and not _OF_ANYBODY.fullmatch(path))
