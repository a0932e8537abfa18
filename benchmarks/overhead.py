"""What the pipeline itself costs: CPU time per completion, with an engine that takes next to none.

A recipe with every step is built on the scripted engine, which writes at once. The figure is the CPU time of the whole
process (`time.process_time`: every thread, user and system) over the completions the engine gave. Nothing is
subtracted: imports made by the build, the scripted engine itself, deduplication, Parquet, fsync and the final dataset
are in it. The scripted engine's own share is measured inside it and reported beside it.

Language detection is a model of its own, whose cost grows with the text and not with the pipeline: the figure is given
without it first, and then for a second build with it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import magpie
from magpie.engines.base import Completion, Engine, Sampling
from magpie.engines.scripted import ScriptedEngine
from magpie.execution.local import LocalExecutor
from magpie.recipe import Model, Recipe
from magpie.recipe.loading import parse_recipe

_RULES = [
    {"name": "quality at least average", "where": "input_quality IN ('average', 'good', 'excellent')"},
    {"name": "the answer is whole", "where": "response_finish_reason = 'stop'"},
]


@dataclass(frozen=True, slots=True)
class Cost:
    """One build: completions given, CPU seconds of the process, of which in the engine, and seconds on the clock."""

    rows: int
    completions: int
    cpu: float
    engine_cpu: float
    seconds: float

    @property
    def ms_per_completion(self) -> float:
        """CPU milliseconds of everything, over completions."""
        return 1000 * self.cpu / self.completions


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="20,000 rows instead of 100,000")
    parser.add_argument("--rows", type=int, help="instructions asked for")
    parser.add_argument("--no-language", action="store_true", help="leave out the second build")
    options = parser.parse_args()
    rows = options.rows or (20_000 if options.quick else 100_000)
    bare = _cost(_recipe(rows, language=None))
    whole = None if options.no_language else _cost(_recipe(rows, language={}))
    _show([("without language", bare), *([("with language", whole)] if whole else [])])
    print(json.dumps({"benchmark": "overhead", **_figures(bare, whole)}))


def _recipe(rows: int, *, language: dict[str, Any] | None) -> Recipe:
    return parse_recipe(
        {
            "name": "overhead",
            "rows": rows,
            "engine": "scripted",
            "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
            "language": language,
            "extend": {"turns": 2},
            "filter": {"rules": _RULES},
        }
    )


class _TimedEngine(ScriptedEngine):
    """The scripted engine, counting its completions and the CPU seconds it takes to write them."""

    completions = 0
    cpu = 0.0

    def _write(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        began = time.thread_time()
        completion = super()._write(prompt, sampling)
        self.cpu += time.thread_time() - began
        self.completions += 1
        return completion


def _cost(recipe: Recipe) -> Cost:
    engines: list[_TimedEngine] = []

    async def opener(model: Model) -> Engine:
        engines.append(_TimedEngine(model.script))
        return engines[-1]

    with tempfile.TemporaryDirectory(prefix="magpie-overhead-") as folder:
        clock, cpu = time.perf_counter(), time.process_time()
        magpie.build(recipe, Path(folder) / "run", executor=LocalExecutor(engines=opener))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return Cost(
        rows=recipe.rows,
        completions=sum(engine.completions for engine in engines),
        cpu=cpu,
        engine_cpu=sum(engine.cpu for engine in engines),
        seconds=clock,
    )


def _figures(bare: Cost, whole: Cost | None) -> dict[str, Any]:
    return {
        "ms_per_completion": round(bare.ms_per_completion, 4),
        "rows_per_second": round(bare.rows / bare.seconds, 1),
        "rows": bare.rows,
        "completions": bare.completions,
        "cpu_seconds": round(bare.cpu, 2),
        "engine_share": round(bare.engine_cpu / bare.cpu, 3),
        "ms_per_completion_with_language": round(whole.ms_per_completion, 4) if whole else None,
        "language_ms_per_row": round(1000 * (whole.cpu - bare.cpu) / whole.rows, 4) if whole else None,
    }


def _show(costs: Sequence[tuple[str, Cost]]) -> None:
    table = Table(title="overhead: the pipeline's own CPU time", title_justify="left")
    for heading in ("recipe", "rows", "completions", "CPU, s", "clock, s", "CPU ms each", "engine"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for name, cost in costs:
        table.add_row(
            name,
            f"{cost.rows:,}",
            f"{cost.completions:,}",
            f"{cost.cpu:.1f}",
            f"{cost.seconds:.1f}",
            f"{cost.ms_per_completion:.3f}",
            f"{cost.engine_cpu / cost.cpu:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
