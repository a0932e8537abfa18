"""How near a build comes to the speed of the bare engine.

The shipped demo recipe is built phase by phase. After each generating phase, the very same prompts go to a bare loop
(every `add_request` up front, then `step` until done) in the same process, on the same loaded engine, in the thread
that loaded it. The ratio is tokens/s of the build over tokens/s of the bare loop, all generating phases together.
An engine may grow slower or quicker with use, so the order is build, bare, bare, build: a steady drift cancels out.

What is timed. The build: from a phase's first request to its last completion, so whatever the pipeline does in between
counts against it: prompts, cleaning, Parquet and fsync, the drain at the end. Loading models, and the phases that do
not generate (embedding, deduplication), are outside the clock. The bare loop: from the first `add_request` to the last
output; its sampling parameters are made before.

What is kept equal. Each request has the same prompt ids, temperature, top_p, seed and place in the order on both sides.
The bare loop is forced to the lengths the build recorded (`ignore_eos`, `max_tokens` of that many, no stops), which
also spares it the search for stop texts and favours it. A request held to a schema keeps schema and stops, since a
grammar cannot be forced to a length: its tokens are counted on each side. A later turn's prompt is there for the bare
loop at once, where the build has to wait for the turn before. The prefix cache is emptied before every timed stretch,
and a warm-up comes before the first.

On a machine with other work the clock says more about that work than about magpie; `cpu_ratio`, the same ratio by the
CPU time of this process, then says more. On a GPU it says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import magpie
from benchmarks.recording import (
    NO_WORK,
    Asked,
    LentVllmEngine,
    Moment,
    Recorder,
    Work,
    bare_loop,
    planned_model,
)
from magpie.engines.base import Engine, Sampling
from magpie.engines.vllm.settings import sampling_params
from magpie.execution.local import LocalExecutor
from magpie.models import resolve
from magpie.plan import make_plan
from magpie.recipe import Model, Recipe
from magpie.runs.run import Run

_START = Moment.now()
_WARM_UP = [Asked(range(100, 140), Sampling(max_tokens=32, seed=n), 32, _START, _START) for n in range(256)]


def main() -> None:
    """Measure, show, and end with one JSON object."""
    options = _options()
    recipe = _recipe(options)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="magpie-saturation-") as folder:
        found = _measure(recipe, Path(folder), options.repeats, console)
    print(json.dumps({"benchmark": "saturation", "rows": recipe.rows, **found}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="instruct and respond only, shorter responses")
    parser.add_argument("--rows", type=int, default=1024, help="instructions asked for")
    parser.add_argument("--repeats", type=int, default=1, help="builds, each with a seed of its own")
    parser.add_argument("--steps", nargs="*", choices=["tag", "respond", "extend"], help="besides instruct")
    parser.add_argument("--set", nargs="*", default=[], metavar="A.B=VALUE", help="settings of the recipe")
    return parser.parse_args()


def _recipe(options: argparse.Namespace) -> Recipe:
    """The demo recipe, without the filter: it would only make the sample smaller."""
    steps = options.steps
    if steps is None:
        steps = ["respond"] if options.quick else ["tag", "respond", "extend"]
    changes: dict[str, Any] = {"filter": None}
    changes |= {name: None for name in ("extend", "tag", "respond") if name not in steps}
    if options.quick and "respond" in steps:
        changes["respond.max_tokens"] = 64
    for written in options.set:
        name, _, value = written.partition("=")
        changes[name] = magpie.recipe.loading.parse_value(value)
    return magpie.load_recipe("demo", rows=options.rows, engine="vllm", overrides=changes)


def _measure(recipe: Recipe, folder: Path, repeats: int, console: Console) -> dict[str, Any]:
    model = planned_model(recipe)
    console.print(f"loading {model.model}")
    engine = asyncio.run(LentVllmEngine.open(model, resolve(model)))
    recorder = Recorder(engine)

    async def opener(wanted: Model) -> Engine:
        assert wanted == model, "every role of this recipe is one model"
        engine.join_loop()
        return recorder

    _bare(engine, _WARM_UP)

    def build_up_to(step: str, recipe: Recipe, out: Path) -> Run:
        # An executor of its own for each build: it opens the engine anew, which then answers on the build's event loop.
        return magpie.build(recipe, out, stop_after=step, executor=LocalExecutor(engines=opener))

    rounds = []
    for number in range(repeats):
        one = recipe.model_copy(update={"seed": recipe.seed + number})
        out = folder / str(number)
        rounds.append(
            _round(one, out, build_up_to=build_up_to, recorder=recorder, engine=engine, console=console)
        )
    asyncio.run(engine.close())
    _show(rounds)
    return _summary(rounds) | {"model": model.model, "engine": engine.model.engine, "cores": os.cpu_count()}


Round = dict[str, tuple[Work, Work]]
Build = Callable[[str, Recipe, Path], Run]


def _round(
    recipe: Recipe,
    out: Path,
    *,
    build_up_to: Build,
    recorder: Recorder,
    engine: LentVllmEngine,
    console: Console,
) -> Round:
    """One build and the bare loops beside it: for each generating phase, the work of both."""
    found: Round = {}
    for phase in make_plan(recipe).phases:
        last = phase.steps[-1].name
        if phase.needs_engine:
            engine.lend(lambda llm: llm.reset_prefix_cache())
        run = build_up_to(last, recipe, out)
        asked = recorder.take()
        if asked:
            bare = _bare(engine, asked) + _bare(engine, asked)
            for run_step in phase.steps:
                shutil.rmtree(run.folder / "steps" / run_step.folder)
            engine.lend(lambda llm: llm.reset_prefix_cache())
            build_up_to(last, recipe, out)
            built = Work.of(asked) + Work.of(recorder.take())
            found[phase.name] = (built, bare)
            console.print(f"{phase.name}: build {built.speed:,.0f} tokens/s, bare loop {bare.speed:,.0f}")
    return found


def _bare(engine: LentVllmEngine, asked: Sequence[Asked]) -> Work:
    """The same requests through a loop that does nothing else."""
    return bare_loop(engine, [(one.prompt, _forced(one)) for one in asked])


def _forced(one: Asked) -> Any:
    """vLLM's parameters for the request: of the recorded length, or as it was where a schema holds it."""
    if one.sampling.schema is not None:
        return sampling_params(one.sampling)
    params = sampling_params(replace(one.sampling, max_tokens=max(1, one.tokens), stop_ids=(), stop=()))
    params.ignore_eos = True
    return params


def _summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """The median over the rounds of each figure, and the phases' own."""
    totals = [
        (sum((built for built, _ in one.values()), NO_WORK), sum((bare for _, bare in one.values()), NO_WORK))
        for one in rounds
    ]
    return {
        "ratio": round(statistics.median(built.speed / bare.speed for built, bare in totals), 4),
        "tokens_per_second": round(statistics.median(built.speed for built, _ in totals), 1),
        "bare_tokens_per_second": round(statistics.median(bare.speed for _, bare in totals), 1),
        "tokens": totals[0][0].tokens,
        "bare_tokens": totals[0][1].tokens,
        "cpu_ratio": round(statistics.median(_cpu_ratio(built, bare) for built, bare in totals), 4),
        "ratios": [round(built.speed / bare.speed, 4) for built, bare in totals],
        "phases": {
            name: round(statistics.median(one[name][0].speed / one[name][1].speed for one in rounds), 4)
            for name in rounds[0]
        },
    }


def _cpu_ratio(built: Work, bare: Work) -> float:
    """CPU seconds a token of the bare loop over those of the build."""
    return (bare.cpu / bare.tokens) / (built.cpu / built.tokens)


def _show(rounds: Sequence[Round]) -> None:
    table = Table(title="saturation: a build beside a bare engine loop", title_justify="left")
    for heading in ("phase", "tokens", "build, s", "bare, s", "build, t/s", "bare, t/s", "ratio", "by CPU"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for one in rounds:
        for name, (built, bare) in one.items():
            table.add_row(
                name,
                f"{built.tokens:,}",
                f"{built.seconds:.1f}",
                f"{bare.seconds:.1f}",
                f"{built.speed:,.0f}",
                f"{bare.speed:,.0f}",
                f"{built.speed / bare.speed:.3f}",
                f"{_cpu_ratio(built, bare):.3f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
