"""What it saves to apply the filter before answering, and that the kept rows are the same rows.

On the real engine, the shipped demo recipe is built up to its tags, once. A filter of two instruction-side rules is
then set so that it keeps about a third of the rows that are left (the best labels of quality, and a least length of the
instruction: both are read off the rows). Two more builds take over what is there and finish it, in one process and
on one loaded engine: with `respond.rows: kept`, the filter pushed down, and with `respond.rows: all`. Both start from
the same instructions and tags, byte by byte, so whatever differs is push-down's doing. The rules leave responses alone
on purpose: a batch of another size moves a bfloat16 engine's rounding, and with it some greedy texts, so a rule on
responses could keep other rows for a reason that has nothing to do with push-down. A run so small that a third of it
does not fill the engine's slots saves less time than tokens; a large one saves both alike.

That rules on responses, quotas and a top keep the same rows too is shown where text depends on nothing but prompt and
seed: on the scripted engine, two whole builds with all of these must give datasets equal in every value.

Tokens are those the engine generated; seconds run from a build's first request to its last completion. `token_ratio`
and `time_ratio` are of whole builds, instructions and tags included; the answering part alone is reported beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

import magpie
from benchmarks.recording import Asked, LentVllmEngine, Recorder, Work, planned_model
from magpie.engines.base import Engine
from magpie.execution.local import LocalExecutor
from magpie.models import resolve
from magpie.recipe import Filter, Model, Recipe
from magpie.recipe.loading import parse_recipe
from magpie.runs.run import Run
from magpie.steps.base.scales import QUALITIES
from magpie.storage.sealed import read_shard

_SHARE = 1 / 3
_QUALITY = {"name": "quality", "where": "input_quality IN ('average', 'good', 'excellent')"}

Rows = Literal["kept", "all"]


@dataclass(frozen=True, slots=True)
class Finish:
    """One way to finish the build: the run, and what its engine was asked."""

    run: Run
    work: Work
    requests: int


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pushdown", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one turn, shorter responses, 256 rows")
    parser.add_argument("--rows", type=int, help="instructions asked for (1,024, or 256 with --quick)")
    parser.add_argument("--repeats", type=int, default=1, help="how often the build is finished each way")
    parser.add_argument("--scripted-rows", type=int, default=4000, help="rows of the scripted builds")
    options = parser.parse_args()
    changes: dict[str, Any] = {"extend": None, "respond.max_tokens": 128} if options.quick else {}
    rows = options.rows or (256 if options.quick else 1024)
    recipe = magpie.load_recipe("demo", rows=rows, engine="vllm", overrides={**changes, "filter": None})
    with tempfile.TemporaryDirectory(prefix="magpie-pushdown-") as folder:
        exact = _scripted(options.scripted_rows, Path(folder))
        found = _real(recipe, Path(folder), options.repeats)
    print(json.dumps({"benchmark": "pushdown", **found, **exact}))


def _real(recipe: Recipe, folder: Path, repeats: int) -> dict[str, Any]:
    """The demo recipe on vLLM, finished with and without push-down."""
    model = planned_model(recipe)
    engine = asyncio.run(LentVllmEngine.open(model, resolve(model)))
    recorder = Recorder(engine)

    async def opener(_model: Model) -> Engine:
        engine.join_loop()
        return recorder

    def build(recipe: Recipe, out: Path, **options: Any) -> Run:
        # An executor of its own for each build: it opens the engine anew, which then answers on the build's event loop.
        return magpie.build(recipe, out, executor=LocalExecutor(engines=opener), **options)

    finishes: dict[Rows, list[Finish]] = {"kept": [], "all": []}
    start = build(_answering(recipe, None), folder / "start", stop_after="tag")
    before = _phases(recorder.take())
    filter = _third(start)
    for number in range(repeats):
        order: tuple[Rows, ...] = ("kept", "all") if number % 2 == 0 else ("all", "kept")
        for rows in order:
            engine.lend(lambda llm: llm.reset_prefix_cache())
            finished = _answering(recipe, rows, filter)
            run = build(finished, folder / f"{rows}-{number}", reuse=start.folder)
            asked = recorder.take()
            finishes[rows].append(Finish(run, Work.of(asked), len(asked)))
    asyncio.run(engine.close())
    found = _compare(before, finishes, filter)
    _show(before, finishes)
    return found


def _answering(recipe: Recipe, rows: Rows | None, filter: Filter | None = None) -> Recipe:
    """The recipe that answers these rows and keeps what `filter` keeps; None: up to the tags only."""
    if rows is None or recipe.respond is None:
        return recipe.model_copy(update={"respond": None, "extend": None})
    respond = recipe.respond.model_copy(update={"rows": rows})
    return recipe.model_copy(update={"respond": respond, "filter": filter})


def _third(start: Run) -> Filter:
    """As many of the best quality labels as hold a third of the rows, and the least length that leaves that third."""
    rows = start.table(["instruction", "input_quality"], rejected=False)
    wanted = round(_SHARE * rows.num_rows)
    for count in range(1, len(QUALITIES) + 1):
        labels = QUALITIES[-count:]
        good = rows.filter(pc.is_in(rows["input_quality"], pa.array(labels)))
        if good.num_rows >= wanted:
            break
    lengths = sorted(pc.utf8_length(good["instruction"]).to_pylist(), reverse=True)
    least = lengths[min(len(lengths), wanted) - 1]
    quality = {"name": "quality", "where": f"input_quality IN {labels!r}".replace(",)", ")")}
    length = {"name": "length", "where": f"length(instruction) >= {least}"}
    return Filter.model_validate({"name": "a third", "rules": [quality, length]})


def _phases(asked: Sequence[Asked]) -> Work:
    """The work before the answers: the phase that writes instructions and, once all of those are in, the tags."""
    tags = [one for one in asked if one.sampling.schema is not None]
    return Work.of([one for one in asked if one.sampling.schema is None]) + Work.of(tags)


def _compare(before: Work, finishes: dict[Rows, list[Finish]], filter: Filter) -> dict[str, Any]:
    kept, every = finishes["kept"][0].run, finishes["all"][0].run
    kept_ids, every_ids = _kept_ids(kept), _kept_ids(every)
    answered = _responses(every).num_rows
    tokens = {rows: done[0].work.tokens for rows, done in finishes.items()}
    seconds = {rows: statistics.median(one.work.seconds for one in done) for rows, done in finishes.items()}
    return {
        "same_ids": kept_ids == every_ids,
        "wasted_responses": _wasted(kept, every, filter),
        "token_ratio": round((before.tokens + tokens["kept"]) / (before.tokens + tokens["all"]), 4),
        "time_ratio": round((before.seconds + seconds["kept"]) / (before.seconds + seconds["all"]), 4),
        "answering_token_ratio": round(tokens["kept"] / tokens["all"], 4),
        "answering_time_ratio": round(seconds["kept"] / seconds["all"], 4),
        "rows": kept.recipe.rows,
        "kept": len(kept_ids),
        "kept_share": round(len(kept_ids) / answered, 4),
        "same_responses": _same_responses(kept, every),
    }


def _wasted(kept: Run, every: Run, filter: Filter) -> int:
    """Responses in the pushed-down build for rows that the other build shows an instruction-side rule to drop."""
    dropped = pa.array([f"filter: {rule.name}" for rule in filter.rules])
    rows = every.table([])
    out = set(rows.filter(pc.is_in(rows["rejected"], dropped))["id"].to_pylist())
    return len(out & set(_responses(kept)["id"].to_pylist()))


def _same_responses(kept: Run, every: Run) -> float:
    """The share of the pushed-down build's responses that are the other build's to the letter."""
    there = dict(zip(*(_responses(every)[name].to_pylist() for name in ("id", "response")), strict=True))
    here = dict(zip(*(_responses(kept)[name].to_pylist() for name in ("id", "response")), strict=True))
    same = [there.get(key) == text for key, text in here.items()]
    return round(float(np.mean(same)), 4) if same else 1.0


def _responses(run: Run) -> pa.Table:
    """Every row that has a response, kept or not."""
    rows = run.table(["response"])
    return rows.filter(pc.is_valid(rows["response"]))


def _kept_ids(run: Run) -> list[str]:
    return [str(row_id) for row_id in _dataset(run)["id"].to_pylist()]


def _dataset(run: Run) -> pa.Table:
    """Every row of the dataset, with every column."""
    return pa.concat_tables(read_shard(run.storage, name) for name in run.dataset_files.names())


def _scripted(rows: int, folder: Path) -> dict[str, Any]:
    """Whole builds on the scripted engine, with rules on responses, quotas and a top: the datasets, value by value."""
    rules = [
        _QUALITY,
        {"name": "long answer", "where": "response_length > 60"},
        {"name": "hard enough", "where": "difficulty NOT IN ('very easy', 'easy')"},
        {"name": "whole answer", "where": "response_finish_reason = 'stop'"},
    ]
    quotas, top = {"by": "task_category", "each": rows // 40}, {"by": "response_length", "n": rows // 8}
    written = {
        "name": "pushdown",
        "rows": rows,
        "engine": "scripted",
        "models": {"generator": "scripted", "judge": "generator", "embedder": "scripted"},
        "language": None,
        "extend": {"turns": 2},
        "filter": {"rules": rules, "quotas": quotas, "top": top},
    }
    runs = [
        magpie.build(parse_recipe(written | {"respond": {"rows": answered}}), folder / f"scripted-{answered}")
        for answered in ("kept", "all")
    ]
    kept, every = map(_dataset, runs)
    return {
        "scripted_rows": rows,
        "scripted_kept": kept.num_rows,
        "scripted_same_dataset": kept.equals(every),
        "scripted_wasted_responses": _wasted(
            runs[0], runs[1], Filter.model_validate({"rules": [rules[0], rules[2]]})
        ),
    }


def _show(before: Work, finishes: dict[Rows, list[Finish]]) -> None:
    table = Table(title="pushdown: finishing one build, with the filter pushed down and without")
    for heading in ("respond.rows", "requests", "tokens", "seconds", "kept"):
        table.add_column(heading, justify="left" if heading == "respond.rows" else "right")
    table.add_row("instructions and tags", "", f"{before.tokens:,}", f"{before.seconds:.1f}", "")
    for rows, done in finishes.items():
        for one in done:
            kept = len(_kept_ids(one.run))
            work = one.work
            table.add_row(rows, f"{one.requests:,}", f"{work.tokens:,}", f"{work.seconds:.1f}", f"{kept:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
