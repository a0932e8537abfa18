"""Large files that came by Xet: hf_xet itself stores them in a folder, and reads them back from there.

A hub that answers `casUrl: local:///folder` makes the released hf_xet write there what it would send: blocks of chunks,
and shards that say which file is made of which chunks. The hub looks up a file's SHA-256 in those shards.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_HEADER, _ENTRY, _END = 48, 48, b"\xff" * 32
_VERIFICATION, _METADATA = 1 << 31, 1 << 30


def token_headers(cas: Path) -> dict[str, str]:
    """What a hub says of where the storage is."""
    return {
        "X-Xet-Cas-Url": f"local://{cas}",
        "X-Xet-Access-Token": "xet-token",
        "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
    }


def xet_files(cas: Path) -> dict[str, tuple[str, int]]:
    """The Xet hash and the size of every file whose upload was finished, by its SHA-256."""
    files: dict[str, tuple[str, int]] = {}
    for shard in sorted((cas / "xet" / "xorbs" / "shards").glob("*.mdb")):
        files |= _in_shard(shard.read_bytes())
    return files


def _in_shard(data: bytes) -> dict[str, tuple[str, int]]:
    files: dict[str, tuple[str, int]] = {}
    at = _HEADER
    while data[at : at + 32] not in {_END, b""}:
        name = _hex(data[at : at + 32])
        flags, entries = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (32, 36))
        at += _ENTRY
        size = sum(
            int.from_bytes(data[place + 36 : place + 40], "little")
            for place in range(at, at + _ENTRY * entries, _ENTRY)
        )
        at += _ENTRY * entries * (2 if flags & _VERIFICATION else 1)
        if flags & _METADATA:
            files[_hex(data[at : at + 32])] = (name, size)
            at += _ENTRY
    return files


def _hex(data: bytes) -> str:
    """A hash as Xet writes it: four numbers of 64 bits, each with its bytes the other way round."""
    return "".join(data[at : at + 8][::-1].hex() for at in range(0, 32, 8))


def put_together(cas: Path, sha256: str, out: Path) -> None:
    """Write a file that lies in the storage. In a process of its own: only one at a time may open the storage."""
    name, size = xet_files(cas)[sha256]
    command = [sys.executable, __file__, str(cas), name, str(size), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _download(cas: Path, name: str, size: int, out: Path) -> None:
    import hf_xet

    class Tokens(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            import json

            headers = token_headers(cas)
            body = json.dumps(
                {
                    "casUrl": headers["X-Xet-Cas-Url"],
                    "accessToken": headers["X-Xet-Access-Token"],
                    "exp": int(headers["X-Xet-Token-Expiration"]),
                }
            ).encode()
            self.send_response(200)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/token"
    group = hf_xet.XetSession().new_file_download_group(token_refresh_url=address, token_refresh_headers={})
    with group:
        group.start_download_file(hf_xet.XetFileInfo(name, size), str(out))


if __name__ == "__main__":
    _download(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
