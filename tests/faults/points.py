"""Points at which something goes wrong with a build on the scripted engine: one function a kind, drawn from a seed.

Each does its worst to a build in a folder of its own, and leaves it to the caller to run the same command again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from bad_store import Fault, Road
from builds import scripted, small_self_instruct
from command import write_recipe, write_tokenizer
from engines.loopback import Answer, Loopback, completion
from forks import Mother
from stores import ACCESS

from magpie.runs.record import recipe_text

ROWS, SHARD_ROWS, SLOTS = 96, 16, 8

MARK = "MAGPIE_FAULTS_MARK"
"""In the environment of all that is started for the table: by it what is left behind is found."""


Again = Callable[[], subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Setting:
    """What points need: a process to fork from, recipes, the seconds an undisturbed build takes, a store, a server."""

    mother: Mother
    recipe: Path
    server_recipe: Path
    rounds_recipe: Path
    seconds: float = 0.0
    rounds_seconds: float = 0.0
    road: Road | None = None
    server: Loopback | None = None

    def build(self, out: Path | str) -> list[str | Path]:
        """The command of a build, which is also the one that goes on."""
        return ["build", self.recipe, "--out", out, "--grace", "0.3"]

    def rounds(self, out: Path | str) -> list[str | Path]:
        """The command of a build of the second method, whose shards stand on one another."""
        return ["build", self.rounds_recipe, "--out", out]

    def asking(self, out: Path | str) -> list[str | Path]:
        """The command of a build that asks the server."""
        assert self.server is not None
        address = f"models.generator.server.url={self.server.url}"
        return ["build", self.server_recipe, "--set", address, "--out", out]

    def again(self, out: Path | str, requests: Path, env: dict[str, str] | None = None) -> Again:
        """The same command once more."""
        return lambda: self.mother.magpie(*self.build(out), env=env or {}, count=str(requests))


@dataclass
class Hit:
    """A build that something has happened to.

    `again` runs the same command once more. `did` says whether the build was still there to be hit. The dataset must
    be that of the undisturbed run called `whole`; where an engine is not batch-invariant there is none.
    """

    place: Path | str
    again: Again
    did: bool = True
    whole: str | None = "undisturbed"
    damaged_shards: int = 0
    environment: dict[str, str] | None = None


def write_recipes(folder: Path) -> tuple[Path, Path, Path]:
    """A recipe for the scripted engine, which takes about a second, one that asks a server, and one of rounds."""
    script = scripted(tokens_per_second=1500, min_tokens=20, max_tokens=60, slots=SLOTS)
    recipe = write_recipe(folder / "small.yaml", rows=ROWS, shard_rows=SHARD_ROWS, models=script)
    server = {"url": "http://127.0.0.1:9/v1", "timeout": 5, "retries": 4, "backoff": 0.02, "concurrency": 8}
    generator = {
        "model": str(write_tokenizer(folder / "model")), "engine": "server", "context_length": 1024, "server": server,
    }  # fmt: skip
    asks = write_recipe(
        folder / "server.yaml",
        rows=48,
        shard_rows=SHARD_ROWS,
        models={"generator": generator, "embedder": {"model": "scripted"}},
        tag=None,
        filter=None,
        extend=None,
    )
    slow = scripted(tokens_per_second=1500, slots=SLOTS)
    slow["refiner"] = "generator"
    tasks = folder / "rounds.yaml"
    tasks.write_text(recipe_text(small_self_instruct(models=slow, refine={}, review={})), encoding="utf-8")
    return recipe, asks, tasks


def signalled(number: signal.Signals) -> Callable[[random.Random, Setting, Path], Hit]:
    """The driver gets a signal at a moment of the clock, or at a line of its log."""

    def hit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
        out = folder / "run"
        command = setting.build(out)
        process = setting.mother.start(*command, count=str(folder / "requests"))
        _wait(draw, process.pid, out, setting.seconds)
        process.kill(number)
        ended = process.wait()
        stopped = ended.returncode in {-number, 130}
        if stopped and number is not signal.SIGKILL:
            one_line(ended)
        return Hit(out, setting.again(out, folder / "requests"), did=stopped)

    return hit


def _wait(draw: random.Random, pid: int, out: Path, seconds: float) -> None:
    """Until a moment of the clock in the life of a build, or a line of its log."""
    if draw.random() < 0.5:
        time.sleep(draw.random() * seconds)
        return
    lines = _lines(out) + draw.randint(1, 40)
    end = time.monotonic() + 60
    while _lines(out) < lines and time.monotonic() < end and not _has_ended(pid):
        time.sleep(0.001)


def killed_in_rounds(draw: random.Random, setting: Setting, folder: Path) -> Hit:
    """A build of the second method is killed once, twice or three times on its way."""
    out, did = folder / "run", False
    for _ in range(draw.randint(1, 3)):
        process = setting.mother.start(*setting.rounds(out))
        _wait(draw, process.pid, out, setting.rounds_seconds)
        process.kill()
        did |= process.wait().returncode == -signal.SIGKILL
    return Hit(out, lambda: setting.mother.magpie(*setting.rounds(out)), did=did, whole="undisturbed-rounds")


def full_disk(draw: random.Random, setting: Setting, folder: Path) -> Hit:
    """A small disk of its own is full at some point; later it has more room."""
    disk = folder / "disk"
    disk.mkdir()
    size = draw.randint(8, 420)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
    command = setting.build(disk / "run")
    ended = setting.mother.magpie(*command, count=str(folder / "requests"))
    if ended.returncode:
        assert "no space left" in one_line(ended)
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    return Hit(disk / "run", setting.again(disk / "run", folder / "requests"), did=ended.returncode != 0)


def file_limit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
    """Files may grow no further, as on a full disk."""
    command = setting.build(folder / "run")
    size = draw.randint(1, 24) * 1024
    ended = setting.mother.magpie(*command, count=str(folder / "requests"), file_size=size)
    if ended.returncode:
        one_line(ended)
    return Hit(folder / "run", setting.again(folder / "run", folder / "requests"), did=ended.returncode != 0)


def damaged(damage: Callable[[bytes, random.Random], bytes]) -> Callable[[random.Random, Setting, Path], Hit]:
    """A file of a finished run is damaged."""

    def hit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
        out = folder / "run"
        command = setting.build(out)
        ended = setting.mother.magpie(*command, count=str(folder / "requests"))
        assert ended.returncode == 0, ended.stderr
        files = sorted(path for place in ("steps", "dataset") for path in (out / place).rglob("*.parquet"))
        path = draw.choice([*files, out / "manifest.json"])
        path.write_bytes(damage(path.read_bytes(), draw))
        return Hit(out, setting.again(out, folder / "requests"), damaged_shards=int("steps" in path.parts))

    return hit


def flip(data: bytes, draw: random.Random) -> bytes:
    """One bit turned."""
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def tear(data: bytes, draw: random.Random) -> bytes:
    """Only its beginning left."""
    return data[: draw.randrange(len(data))]


def written(body: dict[str, Any]) -> Answer:
    """What the server writes when it is well: decided by the prompt and the seed alone."""
    words = random.Random(f"{body['prompt']}/{body.get('seed')}").sample(
        ["wren", "heron", "magpie", "rook", "jay", "crow", "finch", "swift", "owl", "kite"], 4
    )
    return completion(f"Tell me about the {' and the '.join(words)}.", prompt=len(body["prompt"]))


def bad_server(answer: Answer, share: float) -> Callable[[random.Random, Setting, Path], Hit]:
    """Some of a server's answers are bad, or from some moment all of them; later it is well."""

    def hit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
        out, server = folder / "run", setting.server
        assert server is not None
        after = len(server.asked) + (draw.randrange(90) if share == 1 else 0)

        def behave(body: dict[str, Any]) -> Answer:
            return answer if len(server.asked) > after and draw.random() < share else written(body)

        server.behave = behave
        ended = setting.mother.magpie(*setting.asking(out))
        server.behave = written
        if ended.returncode:
            one_line(ended)
        # Where the bad answers were few they were asked for again, and the build has ended well.
        return Hit(out, lambda: setting.mother.magpie(*setting.asking(out)), whole="undisturbed-server")

    return hit


def bad_bucket(fault: Fault, share: float) -> Callable[[random.Random, Setting, Path], Hit]:
    """An object store fails some requests while a build writes into it; or the driver is killed (share 0)."""

    def hit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
        road = setting.road
        assert road is not None
        bucket = f"runs-{uuid.uuid4().hex[:12]}"
        assert httpx.put(f"{road.url}/{bucket}", trust_env=False, timeout=60).status_code == 200
        environment = ACCESS | {"AWS_ENDPOINT_URL": road.url}
        command = setting.build(f"s3://{bucket}/run")
        road.set(fault, share, draw.randrange(1 << 30))
        process = setting.mother.start(*command, env=environment, count=str(folder / "requests"))
        if not share:
            time.sleep((0.2 + draw.random()) * setting.seconds)
            process.kill()
        ended = process.wait()
        did = road.faults > 0 or ended.returncode == -9
        road.clear()
        if ended.returncode > 0:
            one_line(ended)
        place = f"s3://{bucket}/run"
        again = setting.again(place, folder / "requests", environment)
        return Hit(place, again, did=did, environment=environment)

    return hit


def one_line(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a build ended."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("magpie: ")]
    assert "internal error" not in line, line
    assert "Traceback" not in ended.stderr
    return line


def _lines(out: Path) -> int:
    try:
        return (out / "log.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
