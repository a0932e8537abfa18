"""The command: arguments in, exit code out. The only place that catches broadly and prints.

Exit codes: 0 done; 1 something is wrong, said in one line; 2 the arguments are; 130 stopped by a person or the system.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magpie.errors import MagpieError, RecipeError, StoppedError

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.recipe import Recipe

app = typer.Typer(
    name="magpie",
    help="Name a chat model, get an instruction dataset you would train on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED = 130

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one setting; may be given often."),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="auto, vllm, transformers, server or scripted, for every model."),
]


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships.")],
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    rows: Annotated[int | None, typer.Option(help="How many instructions to ask for.")] = None,
    set_: Sets = None,
    engine: EngineName = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed.")] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="STEP", help="The last step to run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; load and write nothing.")
    ] = False,
) -> None:
    """Build a dataset; run it again to go on where it stopped."""
    loaded = _recipe(recipe, rows=rows, seed=seed, engine=engine, sets=set_ or [])
    if dry_run:
        from magpie.report.plan import print_plan
        from magpie.runs.plan import make_plan
        from magpie.runs.run import Run

        run = Run(out or Path("runs") / loaded.name, make_plan(loaded))
        if stop_after is not None:
            run.step(stop_after)  # raises what a build would
        print_plan(run.plan, run.folder, _console(), stop_after=stop_after)
        return
    from magpie.report.status import print_outcome
    from magpie.runs.build import build as build_run

    console = _console()
    print_outcome(build_run(loaded, out, stop_after=stop_after, console=console), console)


@app.command()
def status(
    run: RunFolder,
    json_: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Say where a run stands: rows, rejections, tokens, step by step."""
    from magpie.report.status import print_status
    from magpie.runs.status import status as status_of

    found = status_of(_open(run))
    if json_:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        print_status(found, _console())


@app.command()
def verify(run: RunFolder) -> None:
    """Check every byte and every row of a run."""
    from magpie.runs.status import verify as problems_of

    opened = _open(run)
    problems = problems_of(opened)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    shards = opened.plan.shards * len(opened.plan.steps)
    typer.echo(f"{run} is whole: {shards} shards, {opened.recipe.rows} rows, each once, at every step")


@app.command("filter")
def filter_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FILTER",
            help="A run's folder, and a filter file or the name of one that ships.",
        ),
    ],
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="PARQUET", help="A dataset without a run: a file, or a folder of files."
        ),
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
    from magpie.recipe.loading import load_filter
    from magpie.report.funnel import print_comparison, print_funnel
    from magpie.runs.refilter import compare as compare_filters
    from magpie.runs.refilter import refilter

    place, name = _run_and_filter(words, with_input=input_ is not None)
    if compare is not None and (out is not None or explain):
        raise RecipeError("--compare only counts; leave out --out and --explain")
    source = _open(Path(place)) if input_ is None else _published(input_)
    chosen, console = load_filter(name), _console()
    if compare is not None:
        print_comparison(compare_filters(source, chosen, load_filter(compare)), console)
        return
    folder = out
    if out is None and not explain:
        if input_ is not None:
            raise RecipeError(
                "--input needs --out, the folder to write to; or ask with --explain or --compare"
            )
        folder = source.folder / "filtered" / chosen.name
    found = refilter(source, chosen, folder, explain=explain)
    print_funnel(found, console)
    rows = "row" if found.kept == 1 else "rows"
    where = "would be kept" if folder is None else f"in {folder}"
    console.print(f"{found.kept:,} {rows} {where}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def export(
    run: RunFolder,
    format_: Annotated[str, typer.Option("--format", help="messages, sharegpt, alpaca or preference.")],
    out: Annotated[Path, typer.Option(help="The file to write: .jsonl or .parquet.")],
) -> None:
    """Write the dataset in a format that trainers read."""
    from magpie.publish.formats import FORMATS
    from magpie.publish.formats import export as export_run

    if format_ not in FORMATS:
        raise RecipeError(f"--format {format_!r} is not known; use one of: {', '.join(FORMATS)}")
    rows = export_run(_open(run), format=format_, out=out)
    typer.echo(f"{rows:,} {'row' if rows == 1 else 'rows'} in {out}")


@app.command()
def show(
    run: RunFolder,
    row: Annotated[str | None, typer.Argument(metavar="[ID]", help="One row, in full.")] = None,
    n: Annotated[int, typer.Option(min=1, help="How many kept rows to show.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rejected rows, by reason.")] = False,
) -> None:
    """Read rows: kept ones, rejected ones with reasons, or one in full."""
    from magpie.report.show import show_rejected, show_row, show_rows

    opened, console = _open(run), _console()
    if row is not None:
        show_row(opened, row, console)
    elif rejected:
        show_rejected(opened, console)
    else:
        show_rows(opened, console, n=n, seed=seed)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or an embedded model such as demo.")],
    n: Annotated[int, typer.Option(min=1, help="How many instructions to sample.")] = 64,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Only the format: needs just a tokenizer.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Try out what might help, n rows a change.")] = False,
    chat_template: Annotated[
        str | None, typer.Option(help="A template to use in place of the model's own.")
    ] = None,
    engine: EngineName = None,
    json_: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Say whether a model can write instructions, and with which settings."""
    from magpie.report.doctor import doctor as examine
    from magpie.report.doctor import print_diagnosis
    from magpie.report.telling import telling

    if fix and no_sample:
        raise RecipeError("--fix samples the model and --no-sample does not; give one of them")
    with telling(_console(stderr=True)) as tell:
        diagnosis = examine(
            model,
            n=0 if no_sample else n,
            fix=fix,
            chat_template=chat_template,
            engine=_engine(engine),
            on_progress=tell,
        )
    if json_:
        typer.echo(json.dumps(diagnosis.to_json(), ensure_ascii=False))
    else:
        print_diagnosis(diagnosis, _console())


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or an embedded model such as demo.")],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe to take all but the generator and its mix from.")
    ] = None,
    n: Annotated[int, typer.Option(min=2, help="How many instructions to sample for each setting.")] = 128,
    temperatures: Annotated[str, typer.Option(help="Temperatures to try, with commas.")] = "0.8,1.0,1.2",
    top_ps: Annotated[
        str | None, typer.Option(help="Values of top_p to try, with commas; 1,0.95 on a GPU, else 1.")
    ] = None,
    engine: EngineName = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the samples.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Try temperatures and top_p, and print the mix of the best."""
    from magpie.report.telling import telling
    from magpie.report.tune import print_tuning
    from magpie.report.tune import tune as try_settings

    with telling(_console(stderr=True)) as tell:
        tuning = try_settings(
            model,
            recipe=recipe,
            n=n,
            temperatures=_numbers("--temperatures", temperatures),
            top_ps=None if top_ps is None else _numbers("--top-ps", top_ps),
            engine=_engine(engine),
            seed=seed,
            on_progress=tell,
        )
    if json_:
        typer.echo(json.dumps(tuning.to_json(), ensure_ascii=False))
    else:
        print_tuning(tuning, _console())


@app.command()
def templates() -> None:
    """List the chat templates that ship."""
    from magpie.chat import list_templates

    _list([(one.name, one.description) for one in list_templates()])


@app.command()
def filters() -> None:
    """List the filters that ship."""
    from magpie import shipped
    from magpie.recipe.loading import load_filter

    _list([(name, load_filter(name).description) for name in shipped.names("filters")])


@app.command()
def recipes() -> None:
    """List the recipes that ship."""
    from magpie import shipped
    from magpie.recipe.loading import load_recipe

    _list([(name, load_recipe(name).description) for name in shipped.names("recipes")])


def main() -> None:
    """Run the command. What magpie raises on purpose becomes one line and an exit code."""
    logging.basicConfig(
        level=os.environ.get("MAGPIE_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s"
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if code == _INTERRUPTED:  # typer's way to say KeyboardInterrupt
            _say("stopped; nothing that was finished is lost: run the same command again", code)
    except StoppedError as error:
        code = _say(str(error), _INTERRUPTED)
    except MagpieError as error:
        code = _say(str(error), 1)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if os.environ.get("MAGPIE_DEBUG"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        code = _say(f"a fault of magpie's: {what}; set MAGPIE_DEBUG=1 for the trace, and please report it", 1)
    _leave(code)


def _leave(code: int) -> None:
    """Exit without waiting for a library's threads: an engine's may never end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    logging.shutdown()
    os._exit(code)


def _say(text: str, code: int) -> int:
    line = " ".join(text.split())
    typer.echo(f"magpie: {line}", err=True)
    return code


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, emoji=False)  # what models write is shown as it is


def _open(folder: Path) -> Any:
    from magpie.runs.run import Run

    return Run.open(folder)


def _published(path: Path) -> Any:
    from magpie.runs.published import Published

    return Published(path)


def _run_and_filter(words: list[str], *, with_input: bool) -> tuple[str, str]:
    """The run, "" with --input, and the filter."""
    if len(words) != (1 if with_input else 2):
        wanted = "with --input, give the filter alone" if with_input else "give a run and a filter"
        raise typer.BadParameter(f"{wanted}, not {len(words)} names", param_hint="'[RUN] FILTER'")
    return "".join(words[:-1]), words[-1]


def _engine(name: str | None) -> Any:
    from typing import get_args

    from magpie.recipe import EngineKind

    if name is not None and name not in get_args(EngineKind):
        raise RecipeError(f"--engine {name!r} is not known; use one of: {', '.join(get_args(EngineKind))}")
    return name


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise RecipeError(
            f"{option} {text!r}: write numbers with commas between them, such as 0.8,1.0"
        ) from error


def _recipe(
    source: str, *, rows: int | None, seed: int | None, engine: str | None, sets: list[str]
) -> Recipe:
    from magpie.recipe.loading import load_recipe, parse_value

    overrides = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"--set {item}: write it as a.b=value")
        overrides[key.strip()] = parse_value(value)
    return load_recipe(source, rows=rows, seed=seed, engine=_engine(engine), overrides=overrides)


def _list(items: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in items), default=0)
    for name, description in items:
        typer.echo(f"{name:<{width}}  {' '.join(description.split())}")


if __name__ == "__main__":
    main()
