"""What LLaMA-Factory and axolotl have to be told of a file before they read it, written beside it.

LLaMA-Factory looks datasets up in `dataset_info.json` in their folder: an entry is added there, and the others stay.
For axolotl it is the part `datasets` of its configuration, as YAML to paste. Keys are those of llamafactory 0.9.5
(`data/parser.py`) and axolotl 0.19.0 (`utils/schemas/datasets.py`), read on 2026-11-27.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from magpie.errors import RecipeError, RunError
from magpie.publish.outputs import Part, write_text
from magpie.publish.shapes import Format
from magpie.recipe.reading import bytes_of
from magpie.records.encoding import decoded

DATASET_INFO = "dataset_info.json"


def refuse_beside(format: Format, out: Path) -> None:
    """Raise RunError where a configuration that would be written is there already: somebody may have changed it."""
    if format == "axolotl" and _axolotl_place(out).exists():
        raise RunError(
            f"{_axolotl_place(out)} is there already; replace it with --overwrite, or name another file with --out"
        )


def write_beside(format: Format, out: Path, parts: Sequence[Part], *, pairs: bool) -> tuple[Path, ...]:
    """Write what the trainer of the format needs beside the files, if anything; where. Raises RunError."""
    if format == "llama-factory":
        path = out.with_name(DATASET_INFO)
        entries = {
            name: llama_factory_entry(file, pairs=pairs) for part in parts for name, file in _named(part, out)
        }
        write_text(path, json.dumps(_held(path) | entries, indent=2, ensure_ascii=False) + "\n")
        return (path,)
    if format == "axolotl":
        path = _axolotl_place(out)
        write_text(path, axolotl_yaml(parts, pairs=pairs))
        return (path,)
    return ()


def llama_factory_entry(file: Path, *, pairs: bool) -> dict[str, Any]:
    """The entry of a file in `dataset_info.json`."""
    columns = {"messages": "conversations"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    return {
        "file_name": file.name,
        "formatting": "sharegpt",
        **({"ranking": True} if pairs else {}),
        "columns": columns,
        "tags": {**tags, "system_tag": "system"},
    }


def axolotl_entry(file: str, *, pairs: bool) -> dict[str, Any]:
    """The entry of a file below `datasets` in a configuration of axolotl."""
    kind = "parquet" if file.endswith(".parquet") else "json"
    # One file, so that axolotl reads no other of its folder.
    entry: dict[str, Any] = {"path": file, "ds_type": kind, "field_messages": "messages"}
    if pairs:
        # Pairs have a loader of their own, which takes the names of fields in this way.
        sides = {"field_chosen": "chosen", "field_rejected": "rejected"}
        return {**entry, "split": "train", "type": "chat_template.default", **sides}
    return {**entry, "type": "chat_template", "roles_to_train": ["assistant"], "train_on_eos": "turn"}


def axolotl_yaml(parts: Sequence[Part], *, pairs: bool) -> str:
    """The lines of a configuration that read the files: `datasets`, and `test_datasets` for a test part."""
    entries: dict[str, Any] = {"rl": "dpo"} if pairs else {}
    for part in parts:
        key = "datasets" if part.name in {"", "train"} else "test_datasets"
        split = {"split": "train"} if key == "test_datasets" else {}  # of one file, all rows are so called
        held = entries.setdefault(key, [])
        held += [axolotl_entry(str(file), pairs=pairs) | split for file in part.files]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _axolotl_place(out: Path) -> Path:
    return out.with_name(f"{out.name.partition('.')[0]}.axolotl.yaml")


def _named(part: Part, out: Path) -> list[tuple[str, Path]]:
    return [(file.name.partition(".")[0], file) for file in part.files]


def _held(path: Path) -> dict[str, Any]:
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        held = json.loads(decoded(bytes_of(path), str(path)))
    except (ValueError, RecursionError, RecipeError) as error:
        raise RunError(f"{path} cannot be read ({error}); mend it, or move it away") from error
    if not isinstance(held, dict):
        raise RunError(f"{path} holds no list of datasets; mend it, or move it away")
    return held
