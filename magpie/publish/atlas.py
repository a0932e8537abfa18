"""Rows in Embedding Atlas (Apple, MIT licence): on this machine's loopback, or as a folder for a Space."""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from magpie.errors import RunError
from magpie.publish.atlas_rows import NEAREST, AtlasRows, X, Y
from magpie.storage.writing import make_folders, storage_errors

PORT = 5055
HOST = "127.0.0.1"
_PORTS_TRIED = 20
_TEXT = "instruction"
_SPACE = """---
title: {title}
emoji: 🐦
colorFrom: blue
colorTo: gray
sdk: static
app_file: index.html
---

{title} in Embedding Atlas: {rows}. The map is {method}. Made by `magpie view --export`.

To look at it here: `python -m http.server`, and open the address that it prints.
"""


def check_installed() -> None:
    """Raise RunError where Embedding Atlas is not installed: before anything is read."""
    if find_spec("embedding_atlas") is None:
        raise RunError("magpie view needs Embedding Atlas; install it with: pip install 'magpie-synth[view]'")


def serve(rows: AtlasRows, *, port: int = PORT, on_ready: Callable[[str], None]) -> None:
    """Serve the rows on loopback until a signal comes. `on_ready` is given the address.

    With `port` 0 a free one is taken, else the first free one from `port` on. Nobody but this machine is answered, and
    no page of another site: a name that leads here from elsewhere is refused.
    """
    import uvicorn
    from embedding_atlas.server import make_server
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = make_server(_data_source(rows), static_path=str(_static()), duckdb_uri="server")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    with _listening(port) as listener:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error"))
        on_ready(f"http://{HOST}:{listener.getsockname()[1]}")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return  # uvicorn passes on the signal that it stopped for


def export(rows: AtlasRows, folder: Path) -> None:
    """Write the app and the rows as static files that need no server of ours. The folder must be new, or empty.

    Raises RunError, StorageError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already and not empty; choose another folder with --export")
    make_folders(folder.parent)
    # Made beside it and renamed, so that what is there is whole.
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with storage_errors(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        _data_source(rows).export_to_folder(str(_static()), str(unfinished))
        shown = f"{rows.table.num_rows:,} rows"
        if rows.table.num_rows < rows.of:
            shown += f", drawn at random of {rows.of:,}"
        about = _SPACE.format(title=_title(rows.name), rows=shown, method=rows.method)
        (unfinished / "README.md").write_text(about, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)


def _data_source(rows: AtlasRows) -> Any:
    from embedding_atlas.data_source import DataSource
    from embedding_atlas.options import make_embedding_atlas_props

    frame = rows.table.to_pandas()
    frame["row"] = range(len(frame))
    props = make_embedding_atlas_props(row_id="row", x=X, y=Y, neighbors=NEAREST, text=_TEXT)
    # What somebody arranges in the app is kept under this name, on this machine.
    identifier = hashlib.blake2b(f"{rows.name}/{len(frame)}".encode(), digest_size=16).hexdigest()
    return DataSource(identifier, frame, {"props": props})


def _static() -> Path:
    import embedding_atlas

    return Path(str(embedding_atlas.__file__)).parent / "static"


def _listening(port: int) -> socket.socket:
    """A socket on the first free port. Raises RunError."""
    for number in range(port, port + (_PORTS_TRIED if port else 1)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen()  # who comes from now on waits until it answers
        except (OSError, OverflowError):
            listener.close()
        else:
            return listener
    raise RunError(f"no port from {port} to {port + _PORTS_TRIED - 1} is free; give another with --port")


def _title(name: str) -> str:
    """The name, as one line of YAML that means nothing else."""
    plain = "".join(char if char.isalnum() or char in "-_. " else " " for char in name)
    return " ".join(plain.split()).strip("-. ") or "dataset"
