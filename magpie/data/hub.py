"""Datasets of the hub, read by `datasets`: from its cache where there is no net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magpie.errors import RecipeError
from magpie.records.opening import is_records, one_line


def is_hub_name(name: str) -> bool:
    """Whether a name is that of a hub dataset, ORG/NAME or ORG/NAME:SPLIT, and no file or folder."""
    try:
        if Path(name).exists() or Path(name).is_symlink():
            return False
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False
    org, slash, rest = name.partition(":")[0].partition("/")
    return bool(org and slash and rest and "/" not in rest and not is_records(rest) and org[0] not in "./~")


def hub_dataset(name: str, split: str, shown: object) -> Any:
    """One split of a hub dataset. `shown` is what an error calls it. Raises RecipeError."""
    import datasets

    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's libraries raise of every kind
        raise RecipeError(
            f"the hub dataset {shown} cannot be read ({one_line(error)}); check its name, or the net"
        ) from error


def download(name: str, split: str, folder: Path) -> Path:
    """One split of a hub dataset as a Parquet file in `folder`. Raises RecipeError."""
    path = folder / f"{name.rpartition('/')[2]}.parquet"
    hub_dataset(name, split, f"{name}:{split}").to_parquet(str(path))
    return path
