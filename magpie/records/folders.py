"""Which files of a folder hold the rows of a dataset, and of which split they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from magpie.errors import RecipeError
from magpie.records.opening import ENDINGS, ending, is_records

EVERY_SPLIT = "all"

_SYNONYMS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
# As `datasets` names the files of a split, such as train-00000-of-00001; these words name no split.
_NUMBERED = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_NO_SPLIT = {"data", "part", "shard", "chunk", "file", "output"}
_FIRST_WORD = re.compile(r"[a-z]+")
# What stands beside rows: what `datasets` and others note there, and cached results of theirs.
_ABOUT = re.compile(
    r"(dataset_infos?|dataset_dict|state|metadata|config|.*_config|report|schema)\.json|cache-.*\.arrow"
)


@dataclass(frozen=True, slots=True)
class Files:
    """The files that are read, in the order of their names, and a line for what is left out."""

    paths: tuple[Path, ...]
    split: str | None = None
    notes: tuple[str, ...] = ()


def find_files(path: Path, split: str | None = None) -> Files:
    """The file, or the files below a folder, of one split: `split`, or train, or the first there is.

    Hidden files, and files that only describe the rows, are passed over. Raises RecipeError when there are none.
    """
    if path.is_file():
        if split not in {None, EVERY_SPLIT, split_of(path, path.parent)}:
            raise RecipeError(f"{path} is one file, and not of a split {split!r}; leave the split out")
        return Files((path,))
    if not path.is_dir():
        what = "is a link to nothing" if path.is_symlink() else "is neither a file nor a folder"
        raise RecipeError(
            f"{path} {what if path.is_symlink() or path.exists() else 'is not there'}; check the path"
        )
    found = [file for file in below(path) if is_records(file.name)]
    kinds = {ENDINGS[ending(file.name)] for file in found}
    # Beside tables, a text is a licence or a word to the reader.
    paths = [file for file in found if kinds == {"text"} or ENDINGS[ending(file.name)] != "text"]
    if not paths:
        raise RecipeError(
            f"{path} holds no dataset; finish its build, or give a folder with files that end in {', '.join(ENDINGS)}"
        )
    return _of_split(path, paths, split)


def _of_split(folder: Path, paths: list[Path], split: str | None) -> Files:
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(split_of(path, folder), []).append(path)
    # Beside the files of one split, those that name none are its own.
    if split == EVERY_SPLIT or (split is None and len({*splits} - {""}) < 2):
        return Files(tuple(paths), split)
    names = sorted(splits)
    chosen = next((name for name in (split, _SYNONYMS.get(split or "")) if name in splits), None)
    if split is not None and chosen is None:
        there = ", ".join(name for name in names if name) or "none: its files are of no split"
        raise RecipeError(f"{folder} has no split {split!r}; it has {there}")
    if chosen is None:
        chosen = next((name for name in ("train", "") if name in splits), names[0])
    others = [
        f"{name or 'files of no split'} ({len(splits[name])} file{'s'[: len(splits[name]) > 1]})"
        for name in names
        if name != chosen
    ]
    said = f"{folder}: the split {chosen or 'without a name'} is read, and not {', '.join(others)}"
    return Files(tuple(splits[chosen]), chosen or None, (said,) if others and split is None else ())


def split_of(path: Path, root: Path) -> str:
    """The split of a file below `root`, by its name or its folder's; "" where neither names one."""
    folders = path.relative_to(root).parts[:-1]
    stem = path.name.lower().partition(".")[0]
    numbered = _NUMBERED.fullmatch(stem)
    if numbered and numbered[1] not in _NO_SPLIT:
        return _SYNONYMS.get(numbered[1], numbered[1])
    word = _FIRST_WORD.match(stem)
    if word and word[0] in _SYNONYMS:
        return _SYNONYMS[word[0]]
    if folders and folders[0] in _saved_splits(root):
        return folders[0]
    return next((_SYNONYMS[name.lower()] for name in reversed(folders) if name.lower() in _SYNONYMS), "")


def _saved_splits(root: Path) -> list[str]:
    """The splits that `datasets` saved below a folder; each is a folder there."""
    try:
        splits = json.loads((root / "dataset_dict.json").read_bytes())["splits"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    return [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []


def below(folder: Path) -> Iterator[Path]:
    """The files below a folder, by their paths. Links are followed, and no folder is read twice."""
    seen: set[str] = set()
    found: list[Path] = []
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = _shown(folders)
        found += [Path(here, name) for name in _shown(files) if not _ABOUT.fullmatch(name.lower())]
    yield from sorted(path for path in found if path.is_file())


def _shown(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith((".", "_"))]
