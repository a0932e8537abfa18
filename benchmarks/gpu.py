"""What this machine's GPU does for a dataset, in one go: speed, beside what else there is, and what must hold on a GPU.

Each part prints its figures as soon as it has them, the most important first; the last line is one JSON object with
all. It runs on vLLM's CPU build too, small, to try it where there is no GPU.

build       A build of instructions and responses whose lengths are drawn as published (45 and 430 tokens on average)
            and forced, on the shape of Llama-3-8B with random weights (`--model` for another with its own). Beside it:
            a bare engine loop given the same requests on the same loaded engine, and the published figures for Air,
            turned to one GPU of theirs (A100).
controls    `hold_back` and `first_token_divisor` under the model runner that vLLM takes here, on the same engine.
kill        `kill -9` of a build whose engine has a process of its own: what of it is alive after 10 seconds.
bench       `vllm bench throughput`, with as many requests of the same mean lengths.
reward      `benchmarks.reward`: a reward model through vLLM, over transformers one by one.
embed       Texts a second of the embedder.

With `--tokenizer` and `--embedder` no model's weights are needed: the embedder's are made up too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import magpie
from benchmarks.forced import FIRST_RUNNER, ForcedEngine, takes_processors
from benchmarks.gpu_parts import Figures, Session, bench, embed, kill, pairs_recipe, reward
from benchmarks.recording import Asked, Recorder, Work, bare_loop, planned_model
from benchmarks.shapes import SHAPES, SMALL, add_weights, make_shape
from magpie.engines.base import Engine, Sampling
from magpie.engines.vllm.settings import sampling_params
from magpie.execution.local import LocalExecutor
from magpie.models import resolve
from magpie.recipe import Model, Recipe
from magpie.sizing.cards import card_of_device
from magpie.sizing.shapes import shape_in

PUBLISHED_PAIRS = 3_000_000 / 206
"""Pairs of Air, 3 million rows, in each of the 206 A100 hours that its authors state."""
PARTS = ("build", "kill", "controls", "bench", "reward", "embed")


def main() -> None:
    """Measure, show, and end with one JSON object."""
    options = _options()
    parts: dict[str, Callable[[Session], Figures]] = dict(
        zip(PARTS, (_build, kill, _controls_alone, bench, reward, embed), strict=True)
    )
    with tempfile.TemporaryDirectory(prefix="magpie-gpu-") as folder:
        session = Session(options, Path(folder), _machine())
        figures: Figures = {"benchmark": "gpu", **session.machine}
        for name in options.parts:
            began = time.perf_counter()
            try:
                found = parts[name](session)
            except Exception as error:  # the other parts are worth their minutes
                found = {"error": f"{type(error).__name__}: {error}"[:2000]}
            if (run := found.pop("for_the_planner", None)) is not None:
                figures["throughput"] = [run]
            session.found[name] = figures[name] = found | {"seconds": round(time.perf_counter() - began, 1)}
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / "gpu.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="the demo model, 64 rows of 12 and 40 tokens")
    parser.add_argument("--model", help="a model with weights, instead of the shape of Llama-3-8B")
    parser.add_argument(
        "--shape", choices=SHAPES, default="llama-3-8b", help="of the model with random weights"
    )
    parser.add_argument("--rows", type=int, help="pairs to write; 4,096 by default")
    parser.add_argument("--slots", type=int, help="instead of what magpie chooses")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the tokenizer of the made-up models")
    parser.add_argument("--embedder", type=Path, help="a folder with an embedder, its weights not needed")
    parser.add_argument("--out", type=Path, help="a folder for the figures, written as they come")
    parser.add_argument("--verbose", action="store_true", help="show what vLLM says while it loads")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    if options.quick:
        options.model = options.model or "demo"
    if options.verbose:
        logging.getLogger("magpie").setLevel(logging.DEBUG)
    options.rows = options.rows or (64 if options.quick else 4096)
    return options


def _machine() -> Figures:
    """What it runs on."""
    import torch
    import vllm

    has_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if has_gpu else f"{os.cpu_count()} CPU cores",
        "has_gpu": has_gpu,
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


# Throughput and controls, on one loaded engine


def _build(session: Session) -> Figures:
    options = session.options
    if options.quick:
        ForcedEngine.means, ForcedEngine.instruction_limit = (12.0, 40.0), 64
    if options.model is None:
        files = make_shape(session.new_folder("shape"), SHAPES[options.shape], options.tokenizer)
        model, ForcedEngine.is_dummy = str(files.path), True
    else:
        model, files = options.model, resolve(Model(model=options.model))
    recipe = pairs_recipe(model, options)
    began = time.perf_counter()
    engine = asyncio.run(ForcedEngine.open(planned_model(recipe), files))
    loading: Figures = {"load_seconds": round(time.perf_counter() - began, 1)}
    print(
        f"loaded: {json.dumps({**loading, 'slots': engine.model.slots, **engine.model.settings})}", flush=True
    )
    try:
        found = loading | ({"shape": options.shape} if engine.is_dummy else {})
        found |= _beside_bare_loop(recipe, engine, session.folder)
        # Whatever the controls say, the speed is known by now.
        print(f"speed: {json.dumps(found)}", flush=True)
        if takes_processors():
            found |= {"controls": _controls(engine)}
    finally:
        asyncio.run(engine.close())
    session.engine_options = engine.options
    return found | {"slots": engine.model.slots} | _for_the_planner(session, files.path, found, engine)


def _for_the_planner(session: Session, model: Path, found: Figures, engine: ForcedEngine) -> Figures:
    """What `magpie plan` reads of a measured run, where the card is one that it knows."""
    card, shape = card_of_device(session.machine["device"]), shape_in(model)
    if card is None or shape is None:
        return {}
    prompt, output = found["response_prompt_tokens"], found["mean_tokens"][1]
    return {
        "for_the_planner": {
            "card": card.name, "parameters": shape.parameters, "tensor_parallel": 1, "slots": engine.model.slots,
            "rows": found["pairs"], "prompt": prompt, "output": output, "tokens_per_second": found["tokens_per_second"],
            "date": session.machine["date"],
        }
    }  # fmt: skip


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
        "model": "random weights" if engine.is_dummy else recipe.model("generator").model,
        "rows": recipe.rows,
        "pairs": len(responses),
        "mean_tokens": [round(_mean(instructions), 1), round(_mean(responses), 1)],
        "response_prompt_tokens": round(
            sum(len(one.prompt) for one in responses) / max(1, len(responses)), 1
        ),
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


def _controls_alone(session: Session) -> Figures:
    """The controls on a small model, where vLLM's second model runner does not take them: under the first."""
    if takes_processors():
        return {"see": "build"}
    files = make_shape(session.new_folder("controls"), SMALL, session.options.tokenizer)
    add_weights(files.path)  # vLLM's own made-up weights find every token equally likely
    ForcedEngine.is_dummy = False
    os.environ |= FIRST_RUNNER
    model = Model(model=str(files.path), engine="vllm", context_length=1024, slots=256)
    try:
        engine = asyncio.run(ForcedEngine.open(model, files))
        try:
            return _controls(engine)
        finally:
            asyncio.run(engine.close())
    finally:
        for name in FIRST_RUNNER:
            del os.environ[name]


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
    common = tuple(sorted(set(free), key=free.count, reverse=True)[:32])
    # Random weights find many tokens likely: what is divided by this little is as good as greedy.
    held, divided = firsts(hold_back=common), firsts(first_token_divisor=1e-5)
    runner = engine.lend(lambda llm: bool(llm.vllm_config.use_v2_model_runner))
    return {
        "model_runner": 2 if runner else 1,
        "held_back_came": sum(token in common for token in held),
        "came_before": sum(token in common for token in free),
        "different_first_tokens": [len(set(free)), len(set(divided))],
    }


if __name__ == "__main__":
    main()
