"""A push in a process of its own, which can be killed: `python pushing.py ADDRESS NAME FOLDER`.

What it pushes is a folder as it lies, so that a test of many kills need not make the card anew each time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from magpie.publish.hub.checks import check_target
from magpie.publish.hub.client import Patience, open_hub, quiet_client
from magpie.publish.hub.parcel import Item
from magpie.publish.hub.push import Push, Pushed, Request


def make_folder(folder: Path) -> Path:
    """A small dataset: a few files of each kind; the Hub takes the larger ones into large-file storage."""
    files = {
        "README.md": b"---\nlicense: mit\n---\n\n<!-- card by magpie -->\n\n# small\n",
        ".manifest.json": json.dumps({"about": {"recipe": {"name": "small"}}}).encode(),
        "figures/funnel-light.png": b"\x89PNG" + bytes(3000),
        "train-00000.parquet": bytes(range(256)) * 40,
        "train-00001.parquet": bytes(reversed(range(256))) * 50,
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def items_in(folder: Path) -> list[Item]:
    """Every file of a folder, by its place there."""
    places = sorted(path for path in folder.rglob("*") if path.is_file())
    return [Item.of(path.relative_to(folder).as_posix(), path) for path in places]


def push_folder(address: str, name: str, folder: Path, *, tries: int = 6, **wanted: object) -> Pushed:
    patience = Patience(tries=tries, first=0.01)
    with quiet_client():
        api = open_hub(address)
        request = Request(title="Upload small with magpie", recipe="small", **wanted)  # type: ignore[arg-type]
        target = check_target(
            api, name, create_pr=request.create_pr, private=request.private, patience=patience
        )
        return Push(api, target, request, patience).run(items_in(folder))


if __name__ == "__main__":
    pushed = push_folder(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    print(pushed.commit, pushed.sent, pushed.deleted)
