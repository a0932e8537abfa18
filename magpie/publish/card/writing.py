"""A card written beside its dataset, or to a file that a person names."""

from __future__ import annotations

from pathlib import Path

from magpie.data.dataset import DatasetFiles
from magpie.drawing.files import FOLDER
from magpie.errors import RunError
from magpie.publish.card.making import make_card
from magpie.publish.hub.checks import MARK
from magpie.publish.hub.parcel import CARD
from magpie.publish.progress import Bar
from magpie.publish.source import Source
from magpie.storage.writing import make_folders, refuse_another, replacing, storage_errors


def write_card(
    source: Source, out: Path | None, *, license: str | None, tokenizer: str | None, bar: Bar
) -> Path:
    """Write the card and its figures; where. Raises StorageError, and RunError where `out` is a folder.

    Another's file of that name is not replaced either: what somebody wrote by hand is nowhere else.
    """
    if out is not None:
        with storage_errors(out):
            if out.is_dir():
                raise RunError(f"{out} is a folder; name a file in it with --out, such as {out / CARD}")
        refuse_another(out, MARK.encode())
    else:
        _refuse_another_card(source.kept.files)
    card = make_card(source, license=license, tokenizer=tokenizer, bar=bar)
    files = source.kept.files
    if out is None:
        # Figures first: a card must not show what is not there.
        for name, data in card.figures.items():
            files.storage.replace(f"{files.prefix}{name}", data)
        files.storage.replace(f"{files.prefix}{CARD}", card.text.encode())
        return Path(files.storage.place(f"{files.prefix}{CARD}"))
    make_folders(out.parent / FOLDER if card.figures else out.parent)
    for name, data in {**card.figures, out.name: card.text.encode()}.items():
        with replacing(out.parent / name) as temporary:
            temporary.write_bytes(data)
    return out


def _refuse_another_card(files: DatasetFiles) -> None:
    name = f"{files.prefix}{CARD}"
    if files.storage.exists(name) and MARK.encode() not in files.storage.read(name):
        raise RunError(
            f"{files.storage.place(name)} is a card that magpie did not make; write to another file with --out, "
            "or move it away"
        )
