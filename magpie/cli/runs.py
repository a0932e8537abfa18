"""The commands about a run: build it, check it, read it, filter it, export it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from magpie.cli.options import (
    AllowCode,
    AsJson,
    EngineName,
    RecipeName,
    RunFolder,
    Sets,
    open_run,
    recipe_from,
)
from magpie.errors import RecipeError
from magpie.names import file_name
from magpie.terminal import answered_yes, can_ask, new_console, print_json, print_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magpie.execution.executors import ExecutorName
    from magpie.figures.status import Status
    from magpie.runs.run import Run


def build(
    recipe: RecipeName,
    out: Annotated[
        str | None, typer.Option(help="The run's folder, or s3://bucket/run; runs/NAME by default.")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="How many instructions to ask for; a run grows by more. With --until-kept, at most."
        ),
    ] = None,
    until_kept: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Ask for instructions until N rows are kept.")
    ] = None,
    accept_short: Annotated[
        bool, typer.Option("--accept-short", help="Be content with fewer rows than `until` asks for.")
    ] = False,
    set_: Sets = None,
    engine: EngineName = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed.")] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="STEP", help="The last step to run.")] = None,
    reuse: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Another run, to take over what this one would make alike."),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="local, ray, or auto: Ray where there are GPUs for several engines.")
    ] = "auto",
    replicas: Annotated[
        int | None, typer.Option(help="How many engines Ray runs; as many as the GPUs hold by default.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster to use, such as auto; this machine alone by default.")
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="After SIGTERM, SIGUSR1 or SIGHUP, how long shards in flight may go on.",
        ),
    ] = 10.0,
    report: Annotated[
        bool | None,
        typer.Option("--report/--no-report", help="Write report.html at the end; MAGPIE_REPORT=0 is no too."),
    ] = None,
    peek: Annotated[bool, typer.Option("--peek", help="Print the first rows as they come.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Make again in its place, unasked, what other settings concern.")
    ] = False,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Leave what a change replaces in RUN/replaced.")
    ] = False,
    allow_code: AllowCode = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Pass the gate at which the build was paused.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and what stands already; load and write nothing."),
    ] = False,
) -> None:
    """Build a dataset; run it again to go on where it stopped."""
    sets = [*(set_ or []), *_until(until_kept, rows)]
    loaded = recipe_from(recipe, rows=rows, seed=seed, engine=engine, sets=sets, allow_code=allow_code)
    if dry_run:
        from magpie.plan import dry_run as plan_only
        from magpie.report.dry_run import print_plan

        folder = out or str(Path("runs") / loaded.name)
        other = None if reuse is None else Path(reuse)
        dry = plan_only(loaded, Path(folder), stop_after=stop_after, reuse=other)
        print_plan(dry, new_console())
        if dry.looked.missing:
            names = ", ".join(problem.partition(":")[0] for problem in dry.looked.missing)
            raise RecipeError(f"the build cannot begin: see what is missing above; put right {names}")
        return
    from magpie.build import build as build_run
    from magpie.report.run_table import print_outcome

    console = new_console()
    counted: list[Status] = []
    run = build_run(
        loaded,
        out,
        stop_after=stop_after,
        reuse=reuse,
        executor=cast("ExecutorName", executor),
        replicas=replicas,
        address=address,
        grace=grace,
        report=report,
        peek=peek,
        yes=yes,
        ask=answered_yes if can_ask() else None,
        keep_old=keep_old,
        accept_short=accept_short,
        allow_code=allow_code,
        go_on=go_on,
        on_end=counted.append,
        console=console,
    )
    print_outcome(run, counted[0], console)


def _until(kept: int | None, most: int | None) -> list[str]:
    """--until-kept as settings."""
    if kept is None:
        return []
    return [f"until.kept={kept}", *([] if most is None else [f"until.most={most}"])]


def status(
    run: RunFolder,
    json_: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew until the build that is at work has ended.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.2, metavar="SECONDS", help="With --watch: how often to look.")
    ] = 2.0,
) -> None:
    """Say where a run stands: rows, rejections, tokens, step by step."""
    from magpie import api
    from magpie.report.run_table import print_status

    if watch:
        from magpie.report.watch import watch as show_anew

        if json_:
            raise RecipeError("--watch is to be looked at; for programs, ask again with --json alone")
        show_anew(open_run(run), new_console(), every=every)
        return
    result = api.status(run)
    if json_:
        print_json(result.to_json())
    else:
        print_status(result, new_console())


def runs_(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where your runs are.")] = "runs",
    json_: AsJson = False,
) -> None:
    """List the runs below a folder, with their state."""
    from magpie import api
    from magpie.report.runs_table import print_runs

    found = api.list_runs(folder)
    if json_:
        print_json({"folder": folder, "runs": [run.to_json() for run in found]})
    else:
        print_runs(found, folder, new_console())


def verify(run: RunFolder) -> None:
    """Check every byte and every row of a run, or of a dataset."""
    from magpie import api

    problems = api.verify(run)
    for problem in problems:
        print_line(problem, stderr=True)
    if problems:
        raise typer.Exit(1)
    for line in _whole(run):
        print_line(line)


def _whole(folder: str) -> Iterator[str]:
    """What there is to say of a run or a dataset that is whole."""
    from magpie.data.dataset import DatasetFiles
    from magpie.runs.run import is_run
    from magpie.runs.verify import not_sealed
    from magpie.storage import open_storage
    from magpie.text import counted

    storage = open_storage(folder)
    manifest = None if is_run(storage) else DatasetFiles(storage).manifest()
    if manifest is not None:
        files = counted(len(manifest.files), "file")
        yield f"{folder} is whole: {files}, {counted(manifest.rows, 'row')}"
        return
    opened = open_run(folder)
    shards = counted(opened.shards * len(opened.steps), "shard")
    rows = counted(opened.recipe.rows, "row")
    yield f"{folder} is whole: {shards}, {rows}, each once, at every step"
    note = not_sealed(opened)
    if note is not None:
        yield note


def filter_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FILTER",
            help="The folder of a run or dataset, and a filter file or the name of one that ships.",
        ),
    ],
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILES",
            help="Rows made elsewhere: a file (Parquet, JSON, CSV; .gz or .zst), or a folder of files.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which split of --input to read: train by default; `all` reads all of them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; RUN/filtered/FILTER by default.")] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what each rule loses, with examples; write only with --out."),
    ] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Count what this one keeps beside it; write nothing.")
    ] = None,
) -> None:
    """Apply another filter to a finished run, or to a dataset."""
    from magpie import api
    from magpie.figures.agreement import agreement
    from magpie.recipe.loading import load_filter
    from magpie.report.filter_tables import print_comparison, print_funnel
    from magpie.text import counted

    run_folder, filter_name = _run_and_filter(words, with_input=input_ is not None)
    if input_ is None and _is_dataset(run_folder):
        input_ = Path(run_folder)
    if split is not None and input_ is None:
        raise RecipeError("--split is of a dataset without a run; give that with --input")
    if compare is not None and (out is not None or explain):
        raise RecipeError("--compare only counts; leave out --out and --explain")
    run = open_run(run_folder) if input_ is None else None
    source: Run | Path | str = run or input_ or run_folder
    chosen, console = load_filter(filter_name), new_console()
    if compare is not None:
        print_comparison(api.compare_filters(source, chosen, compare, split=split), console)
        return
    folder: Path | str | None = out
    if out is None and not explain:
        if run is None:
            raise RecipeError(
                "a dataset needs --out, the folder to write to; or ask with --explain or --compare"
            )
        folder = f"{run.storage.location}/filtered/{file_name(chosen.name)}"
    result = api.filter(source, chosen, folder, explain=explain, split=split)
    print_funnel(result, console, () if run is None else agreement(run))
    where = "would be kept" if folder is None else f"in {folder}"
    console.print(f"{counted(result.kept, 'row')} {where}", highlight=False, markup=False, soft_wrap=True)


def show(
    run: RunFolder,
    row: Annotated[str | None, typer.Argument(metavar="[ID]", help="One row, in full.")] = None,
    n: Annotated[int, typer.Option(min=1, help="How many rows to show, or on each page.")] = 5,
    seed: Annotated[int | None, typer.Option(help="Which ones, at random.")] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rejected rows, by reason.")] = False,
    grep: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Rows with this text: a regular expression, any case.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="RULE", help="Rows for which this holds, as in a filter.")
    ] = None,
    worst: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The lowest first by this column; --worst=-COLUMN: the highest."),
    ] = None,
    page: Annotated[int | None, typer.Option(min=1, metavar="N", help="Page N of the rows found.")] = None,
) -> None:
    """Read rows: kept ones, rejected ones with reasons, one in full, or those you look for, page by page."""
    from magpie import api

    api.show(
        run,
        row,
        n=n,
        seed=seed,
        rejected=rejected,
        grep=grep,
        where=where,
        worst=worst,
        page=page,
        console=new_console(),
    )


def _is_dataset(place: str) -> bool:
    """Whether a dataset of magpie's own, or a file, is there, and no run."""
    from magpie.data.dataset import DatasetFiles
    from magpie.runs.run import is_run
    from magpie.storage import open_storage

    if not place or "://" in place:
        return False
    storage, path = open_storage(place), Path(place)
    return path.is_file() or (
        path.is_dir() and not is_run(storage) and DatasetFiles(storage).manifest() is not None
    )


def _run_and_filter(words: list[str], *, with_input: bool) -> tuple[str, str]:
    """The run's folder, which is "" with --input, and the filter."""
    if len(words) != (1 if with_input else 2):
        wanted = "with --input, give the filter alone" if with_input else "give a run and a filter"
        raise typer.BadParameter(f"{wanted}, not {len(words)} names", param_hint="'[RUN] FILTER'")
    return "".join(words[:-1]), words[-1]
