"""What a run says about itself, sealed: every shard holds how it was made, and one manifest names every file.

Each shard's metadata has the resolved recipe and what its fingerprints are made of, compressed: so a recipe that is
lost or changed is recovered. Shards that were taken over speak of the run that they came from: where there are such,
`reused.json` says it in their stead. `manifest.json` is written last, when the run is finished. It names the files with
their checksums, and ends in one of its own: so that whatever is lost or changed afterwards is found.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from magpie.errors import DamagedShardError, RunError, StorageError
from magpie.recipe.reading import parse_yaml
from magpie.storage import Storage, StrangeFileError
from magpie.storage.sealed import about_shard

RUN_MANIFEST = "manifest.json"
REUSED = "reused.json"
FORMAT = 1
_STEPS = "steps/"
# Of a damaged run, so many shards are asked: one answer is enough.
_ASKED = 50
_LARGEST = 256 << 20  # bytes: a recipe holds its steering texts, of up to a million values
_LINE = "# sealed: "


def packed(recipe: Mapping[str, Any], ingredients: Mapping[str, Any]) -> str:
    """A recipe and what the fingerprints are made of, for a shard's metadata: the same text for the same things."""
    text = json.dumps({"recipe": recipe, "ingredients": ingredients}, sort_keys=True, ensure_ascii=True)
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _unpacked(text: str) -> bytes:
    """What `packed` was given, as JSON. Raises ValueError and zlib.error."""
    unpacking = zlib.decompressobj()
    # A run may be anybody's: a few bytes could unpack to gigabytes.
    data = unpacking.decompress(base64.b85decode(text), _LARGEST)
    if not unpacking.eof:
        raise ValueError("it is cut, or larger than any record")
    return data


def recovered_record(storage: Storage) -> dict[str, Any] | None:
    """The recipe and the ingredients, from what was recorded beside shards of another run, or from the shards.

    None where none has them, or where it is damaged that says which shards are another run's.
    """
    if storage.exists(REUSED):
        said = parsed_with_seal(recorded(storage, REUSED))
        return said if said is not None and _says_how(said) else None
    names = [name for name in storage.names(_STEPS) if name.endswith(".parquet")]
    for name in names[::-1][:_ASKED]:
        try:
            text = about_shard(storage, name)
            if text is not None:
                said = json.loads(_unpacked(text))
                if _says_how(said):
                    return dict(said)
        except (DamagedShardError, ValueError, zlib.error, RecursionError):
            continue
    return None


def _says_how(said: Any) -> bool:
    return isinstance(said, dict) and all(
        isinstance(said.get(key), dict) for key in ("recipe", "ingredients")
    )


def checksum(data: bytes | bytearray) -> str:
    """The checksum of a file's bytes, as the manifest has it."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def write_run_manifest(storage: Storage, files: Mapping[str, str]) -> None:
    """Write the checksums of all `files`, unless they are what is there. Raises StorageError."""
    body = json.dumps({"format": FORMAT, "files": dict(sorted(files.items()))}, indent=0, sort_keys=True)
    data = (
        json.dumps({"seal": checksum(body.encode()), "sealed": json.loads(body)}, indent=1).encode() + b"\n"
    )
    try:
        if storage.read(RUN_MANIFEST) == data:
            return
    except OSError:
        pass
    storage.replace(RUN_MANIFEST, data)


def read_run_manifest(storage: Storage) -> dict[str, str] | None:
    """The checksums of the run's files by name; None where there is no manifest. Raises RunError when it is damaged."""
    place = storage.place(RUN_MANIFEST)
    try:
        said = json.loads(storage.read(RUN_MANIFEST))
        body = json.dumps(said["sealed"], indent=0, sort_keys=True)
        if checksum(body.encode()) == said["seal"] and set(said) == {"seal", "sealed"}:
            return {str(name): str(value) for name, value in said["sealed"]["files"].items()}
    except FileNotFoundError:
        return None
    except StrangeFileError as error:
        raise RunError(f"{place} is {error}, not a file; move it away and run the build again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise RunError(f"{place} is damaged: its bytes are not the ones that were written; run the build again")


def is_named(storage: Storage, name: str) -> bool:
    """Whether the run's manifest names this file; not where there is none to say so."""
    try:
        return name in (read_run_manifest(storage) or {})
    except StorageError:
        raise
    except RunError:
        return False


def is_changed(storage: Storage, names: Iterable[str]) -> bool:
    """Whether one of these files is another than the run's manifest names; not where there is none to say so."""
    try:
        files = read_run_manifest(storage) or {}
    except StorageError:
        raise
    except RunError:
        return False
    return any(
        name in files and (data is None or checksum(data) != files[name])
        for name, data in ((name, recorded(storage, name)) for name in names)
    )


def with_seal_line(text: str) -> str:
    """The text with a last line that holds its checksum, a comment in YAML."""
    return f"{text}{_LINE}{checksum(text.encode())}\n"


def has_right_seal_line(data: bytes) -> bool:
    """Whether the last line is there, and right."""
    body, mark, seal = data.rpartition(_LINE.encode())
    return bool(mark) and seal == f"{checksum(body)}\n".encode()


def with_seal_key(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum under "seal"."""
    return {**facts, "seal": checksum(json.dumps(facts, sort_keys=True).encode())}


def parsed_with_seal(data: bytes | None) -> dict[str, Any] | None:
    """The JSON object that `with_seal_key` sealed, without the seal; None for anything else."""
    facts = _parsed(data)
    seal = facts.pop("seal", None) if facts is not None else None
    return facts if facts is not None and with_seal_key(facts)["seal"] == seal else None


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        facts = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def recorded(storage: Storage, name: str) -> bytes | None:
    """The bytes of a file of the run; None where it is not there, or is no file."""
    try:
        return storage.read(name)
    except OSError:
        return None


def recipe_in(storage: Storage, name: str) -> tuple[dict[str, Any] | None, str | None]:
    """The resolved recipe, when the file of it is not what a build wrote, and what to say of that.

    None where the file is to be read: it is right, or of a version that did not seal it, or there are no shards to say
    more. Raises StorageError.
    """
    data = recorded(storage, name)
    if data is not None and has_right_seal_line(data):
        return None, None
    said = recovered_record(storage)
    if said is None:
        return None, None
    what = "is not there" if data is None else "is not what the build wrote"
    note = f"{storage.place(name)} {what}; run the build again with the same recipe to mend it"
    return said["recipe"], note


def read_recipe(storage: Storage, name: str) -> tuple[Any, str | None]:
    """The resolved recipe of a run, as YAML gives it, and what to say of its file, if anything.

    Raises StorageError, OSError where there is no file, and RecipeError where it cannot be read.
    """
    sealed, note = recipe_in(storage, name)
    if sealed is not None:
        return sealed, note
    data = storage.read(name)
    return parse_yaml(data, storage.place(name), is_large=has_right_seal_line(data)), note


def ingredients_in(storage: Storage, name: str) -> dict[str, Any] | None:
    """What the fingerprints are made of, from the file of it, or else from the shards; None where neither says it."""
    data = recorded(storage, name)
    facts = parsed_with_seal(data)
    if facts is not None:
        return facts
    said = recovered_record(storage)
    if said is not None:
        return dict(said["ingredients"])
    unsealed = _parsed(data)
    return None if unsealed is None else {key: value for key, value in unsealed.items() if key != "seal"}
