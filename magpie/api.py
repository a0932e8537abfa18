"""The commands about a run, for Python: they return results where the command prints tables.

Each takes a `Run` or its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magpie.data.select import compare_filters, refilter
from magpie.errors import RecipeError, RunError
from magpie.figures.status import status as status_of
from magpie.recipe.loading import load_filter, load_recipe
from magpie.runs.kept import RunRows
from magpie.runs.run import Run, is_run
from magpie.runs.verify import verify as problems_of
from magpie.storage import open_storage

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.importing import Imported
    from magpie.data.merging import Merged
    from magpie.data.rouge import RougeResult
    from magpie.data.select import FilterComparison, Refiltered, RowSource
    from magpie.data.splitting import Split
    from magpie.figures.status import Status
    from magpie.neighbors.vectors import ProgressCallback
    from magpie.plan import DryRun
    from magpie.plan.costs import Costs
    from magpie.publish.formats import Exported, Format
    from magpie.publish.hub.push import Pushed
    from magpie.publish.source import What
    from magpie.publish.trainers import Trainer, TrainerFolder
    from magpie.recipe import Filter, Recipe
    from magpie.runs.catalogue import Explanation


def recipe(
    source: Recipe | Mapping[str, Any] | str | Path, *, overrides: dict[str, Any] | None = None
) -> str:
    """A recipe as YAML with every key there is, and as comments what each means and its default.

    `source` is what `build` takes: a Recipe, a dict, a file, or the name of a recipe that ships. Raises RecipeError.
    """
    from magpie.recipe.commented import commented

    return commented(load_recipe(source, overrides=overrides))


def plan(
    source: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    overrides: dict[str, Any] | None = None,
    stop_after: str | None = None,
    reuse: str | Path | None = None,
) -> DryRun:
    """What a build would do: its phases, what it lacks on this machine, what it would take over from run `reuse`.

    No weights are loaded, and nothing is written. The arguments are those of `build`, and it raises what that raises
    before it begins. What is missing is no error here: see `looked.missing`.
    """
    from magpie.plan import dry_run

    loaded = load_recipe(source, overrides=overrides)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    return dry_run(loaded, folder, stop_after=stop_after, reuse=None if reuse is None else Path(reuse))


def plan_costs(
    source: Recipe | Mapping[str, Any] | str | Path,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    price: float = 0.0,
    like: Run | str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> Costs:
    """What a build would take of `gpus` GPUs: memory, tokens, hours, dollars at `price` for a GPU hour, disk.

    `gpu` is the kind, such as "h100-80gb", by default one of it; without it, those of this machine, if they are known.
    `like` is an earlier run of the recipe, whose shares of rows and lengths are taken. Raises RecipeError and RunError.
    """
    from magpie.engines.gpus import gpus_here
    from magpie.figures.measured import measured_by
    from magpie.plan import make_plan
    from magpie.plan.costs import plan_costs as costs_of
    from magpie.sizing.cards import card_here, find_card

    card = card_here() if gpu is None else find_card(gpu)
    measured = None if like is None else measured_by(_open(like))
    plan = make_plan(load_recipe(source, overrides=overrides))
    here = gpus_here() if gpu is None else 0
    return costs_of(plan, card, gpus=gpus or here or 1, price=price, measured=measured)


def new(model: str, out: str | Path | None = None, *, rows: int = 1000) -> str:
    """A short recipe for a model, as YAML; written to the file `out`, if one is given, which must not be there yet.

    Raises RecipeError.
    """
    from magpie.report.starter import starter

    text = starter(model, rows=rows)
    if out is not None:
        try:
            with Path(out).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise RecipeError(f"{out} is there already; give another file, or remove it first") from None
        except OSError as error:
            raise RecipeError(f"cannot write {out} ({error.strerror}); give another file") from error
    return text


def status(run: Run | str | Path) -> Status:
    """How far a run has come: rows, rejections and tokens, step by step. Raises RunError when there is no run."""
    return status_of(_open(run))


def verify(source: Run | str | Path) -> list[str]:
    """The problems of a run or of the dataset in a folder, each in one line that names the file.

    Empty when every byte and row is right. Raises RunError where there is neither.
    """
    if not isinstance(source, Run) and not is_run(open_storage(source)):
        from magpie.data.checking import problems_of_dataset
        from magpie.data.dataset import DatasetFiles

        if Path(source).is_dir():
            return problems_of_dataset(DatasetFiles(open_storage(source)))
    return problems_of(_open(source))


def import_dataset(
    source: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    generator: str | None = None,
    license: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Imported:
    """Make a dataset in the folder `out` of one that was made elsewhere; every verb reads it as one of magpie's own.

    `source` is a file, a folder of files (Parquet, JSON, CSV; .gz and .zst too) or ORG/NAME on the hub: a published
    Magpie dataset, ShareGPT, Alpaca, `messages`, or pairs of preference. `generator` and `license` are for rows that
    say nothing of them. Rows that are no conversation are left out; the result has the reasons. Raises RecipeError and
    RunError.
    """
    from magpie.data.importing import import_dataset as import_rows
    from magpie.neighbors.vectors import no_progress

    if is_run(open_storage(source)):
        raise RunError(f"{source} is a run: filter, export, merge and the others read its dataset as it is")
    return import_rows(
        source,
        Path(out),
        split=split,
        generator=generator,
        license=license,
        on_progress=on_progress or no_progress,
    )


def filter(
    source: Run | str | Path,
    filter: Filter | str | Path,
    out: str | Path | None = None,
    *,
    explain: bool = False,
    split: str | None = None,
) -> Refiltered:
    """Apply another filter to a finished run, or to a dataset in files; write what it keeps to folder `out`.

    A dataset is a file (Parquet, JSON, CSV, .gz and .zst too) or a folder, of which one `split` is read: train, or else
    the first there is.
    `filter` is a Filter, a file, or the name of a filter that ships. Without `out` nothing is written. `explain` adds
    what each rule would lose alone, with examples. Raises FilterError, RecipeError, RunError or DamagedShardError.
    """
    return refilter(_rows(source, split), _load(filter), None if out is None else Path(out), explain=explain)


def compare(
    source: Run | str | Path,
    first: Filter | str | Path,
    second: Filter | str | Path,
    *,
    split: str | None = None,
) -> FilterComparison:
    """How many rows of a run or dataset two filters keep: both, one alone, neither. Raises what `filter` does."""
    return compare_filters(_rows(source, split), _load(first), _load(second))


def export(
    source: Run | str | Path,
    format: Format,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    drop_empty: bool = False,
    drop_constant: bool = False,
    overwrite: bool = False,
    where: str | None = None,
    max_tokens: int | None = None,
    limit: int | None = None,
    tokenizer: str | None = None,
    shuffle: int | None = None,
    split: str | None = None,
    rows_per_file: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> Exported:
    """Write the dataset of a run, a folder or a file in a form that trainers read; the result has rows and reasons.

    `format` is messages (trl-sft), sharegpt, alpaca, preference (trl-preference), magpie, openai, llama-factory,
    axolotl, csv or text. `out` ends in .jsonl, .json (also .gz or .zst), .parquet, or for csv in .csv. `columns` are
    those to write beside the format's own; `drop_empty` and `drop_constant` leave out columns that say nothing. `where`
    is a rule as in filters. `max_tokens` are those of the conversation by the template of `tokenizer`, which `text`
    needs too. `shuffle` is a seed, and `limit` takes the first rows of its order. `split` is "0.98/0.02", for train and
    test.

    Raises RunError while the build is unfinished, where `out` is there and not to `overwrite`, and where no row fits.
    """
    from magpie.neighbors.vectors import no_progress
    from magpie.publish.formats import Wanted
    from magpie.publish.formats import export as export_dataset
    from magpie.publish.ordering import shares_of

    return export_dataset(
        source,
        format=format,
        out=Path(out),
        columns=columns,
        drop_empty=drop_empty,
        drop_constant=drop_constant,
        overwrite=overwrite,
        wanted=Wanted(where, max_tokens, limit),
        tokenizer=tokenizer,
        shuffle=shuffle,
        split=(1.0,) if split is None else shares_of(split),
        rows_per_file=rows_per_file,
        on_progress=on_progress or no_progress,
    )


def export_for_trainer(
    source: Run | str | Path,
    trainer: Trainer,
    out: str | Path,
    *,
    model: str | None = None,
    overwrite: bool = False,
    split: str | None = None,
    on_progress: ProgressCallback | None = None,
    **options: Any,
) -> TrainerFolder:
    """Write a folder that trains `model` as it is: data, configuration, and the command in `train.sh`.

    `trainer` is trl, axolotl or llama-factory. `options` are `where`, `max_tokens`, `limit`, `tokenizer`, `shuffle` and
    `rows_per_file`, as in `export`. Raises RunError where the folder holds other things, or is not to `overwrite`.
    """
    from magpie.neighbors.vectors import no_progress
    from magpie.publish.formats import Wanted
    from magpie.publish.ordering import shares_of
    from magpie.publish.trainers import MODEL
    from magpie.publish.trainers import export_for_trainer as write_folder

    wanted = Wanted(*(options.pop(name, None) for name in ("where", "max_tokens", "limit")))
    return write_folder(
        source,
        trainer=trainer,
        out=Path(out),
        model=model or MODEL,
        overwrite=overwrite,
        wanted=wanted,
        split=(1.0,) if split is None else shares_of(split),
        on_progress=on_progress or no_progress,
        **options,
    )


def merge(
    sources: Sequence[Run | str | Path],
    out: str | Path,
    *,
    threshold: float = 0.05,
    embedder: str | None = "demo-embedder",
    on_progress: ProgressCallback | None = None,
) -> Merged:
    """Put datasets together in the folder `out`: runs, folders or files, in this order.

    A row goes out where its instruction is near one that is kept of an earlier dataset: their vectors by `embedder` are
    nearer than `threshold` (squared L2), or, without an embedder, they are the same. Where the ids of a dataset are
    those of others, its name comes before them. Each row has a `source`, a `generator` and a `license`. Raises RunError
    and ModelError.
    """
    from magpie.data.merging import merge as merge_rows
    from magpie.data.near import embedder_named
    from magpie.neighbors.vectors import no_progress
    from magpie.runs.opened import open_dataset

    return merge_rows(
        [open_dataset(source) for source in sources],
        Path(out),
        threshold=threshold,
        embedder=None if embedder is None else embedder_named(embedder),
        on_progress=on_progress or no_progress,
    )


def split(
    source: Run | str | Path,
    out: str | Path,
    *,
    test: float,
    seed: int = 0,
    threshold: float = 0.05,
    embedder: str | None = "demo-embedder",
    on_progress: ProgressCallback | None = None,
) -> Split:
    """Part a dataset into `out`/train and `out`/test, by `seed`, with no near instructions on two sides.

    `test` is the share of test rows. Near is meant as in `merge`. Raises RunError, ModelError.
    """
    from magpie.data.near import embedder_named
    from magpie.data.splitting import split as split_rows
    from magpie.neighbors.vectors import no_progress
    from magpie.runs.opened import open_dataset

    return split_rows(
        open_dataset(source),
        Path(out),
        test=test,
        seed=seed,
        threshold=threshold,
        embedder=None if embedder is None else embedder_named(embedder),
        on_progress=on_progress or no_progress,
    )


def card(
    source: Run | str | Path,
    out: str | Path | None = None,
    *,
    license: str | None = None,
    tokenizer: str | None = None,
    console: Console | None = None,
) -> Path:
    """Write the card of a dataset, with its figures: to `README.md` in its folder, or to the file `out`; its place.

    `license` is a key of the Hub, or NAME=LINK, where you give the dataset under one. `tokenizer` is the model whose
    chat template counts tokens; without it, the generator. Progress is shown on `console`. Raises RunError while the
    build is unfinished, RecipeError, ModelError, DamagedShardError and StorageError.
    """
    from magpie.publish.card.writing import write_card
    from magpie.publish.progress import bar_on, no_bar
    from magpie.publish.source import open_source

    bar = no_bar if console is None else bar_on(console)
    return write_card(
        open_source(source), None if out is None else Path(out), license=license, tokenizer=tokenizer, bar=bar
    )


def push(
    source: Run | str | Path,
    repo: str,
    *,
    what: What = "filtered",
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    tokenizer: str | None = None,
    replace: bool = False,
    live: bool = False,
    endpoint: str | None = None,
    console: Console | None = None,
) -> Pushed:
    """Bring a dataset to the Hub as `repo`, OWNER/NAME, with its card; safe to call again after any interruption.

    `what` is filtered (the kept rows), raw (all rows of a run) or both. `live` follows a build that is at work, and
    pushes when it is done. `replace` allows the rows of another recipe to be replaced. The token is that of HF_TOKEN,
    or of `hf auth login`; `endpoint` another hub than that of HF_ENDPOINT. Raises HubError where the Hub refuses it or
    cannot be reached, RunError, RecipeError, ModelError and DamagedShardError.
    """
    from magpie.publish.hub.client import Patience
    from magpie.publish.hub.live import Follower
    from magpie.publish.hub.publishing import Publisher, Wish
    from magpie.publish.progress import bar_on
    from magpie.publish.source import open_source

    wish = Wish(repo, what, private, revision, create_pr, license, tokenizer, replace, endpoint)
    patience = Patience() if console is None else Patience(say=_said_on(console))
    if live:
        say = (lambda _: None) if console is None else _said_on(console)
        Follower(_open(source), wish, say=say, patience=patience).follow()
    publisher = Publisher(open_source(source), wish, patience=patience)
    if console is not None:
        publisher.bar = bar_on(console)
    return publisher.push()


def _said_on(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def columns(source: Run | str | Path | None = None) -> list[Explanation]:
    """Each column of a run or a dataset explained; without one, every column that any step may add.

    An unfinished run has the columns of its recipe. Raises RunError where there is no run and no dataset.
    """
    from magpie.runs.catalogue import explain_dataset, explain_everything, explain_run
    from magpie.runs.opened import open_dataset
    from magpie.runs.provenance import Provenance

    if source is None:
        return explain_everything()
    if isinstance(source, Run) or is_run(open_storage(source)):
        return explain_run(Provenance.of(_open(source)))
    return explain_dataset(open_dataset(source))


def show(
    run: Run | str | Path,
    row: str | int | None = None,
    *,
    n: int = 5,
    seed: int = 0,
    rejected: bool = False,
    console: Console | None = None,
) -> None:
    """Print rows to read: `n` kept ones, the rejected ones by reason, or one `row` in full, by its id or position.

    `run` may also be the folder of a dataset, such as one that a filter wrote: it has kept rows only.
    """
    from magpie.report.show import show_rejected, show_row, show_rows
    from magpie.terminal import new_console

    console = console or new_console()
    if not isinstance(run, Run) and not is_run(open_storage(run)):
        _show_dataset(Path(run), row, n=n, seed=seed, rejected=rejected, console=console)
        return
    opened = _open(run)
    if row is not None:
        show_row(opened, str(row), console)
    elif rejected:
        show_rejected(opened, console)
    else:
        show_rows(opened, console, n=n, seed=seed)


def _show_dataset(
    folder: Path, row: str | int | None, *, n: int, seed: int, rejected: bool, console: Console
) -> None:
    from magpie.report.show_dataset import show_dataset_row, show_dataset_rows
    from magpie.runs.opened import open_dataset

    dataset = open_dataset(folder)
    if rejected:
        raise RunError(f"{folder} is a dataset, which holds kept rows only; give the folder of its run")
    if row is not None:
        show_dataset_row(dataset, str(row), console)
    else:
        show_dataset_rows(dataset, console, n=n, seed=seed)


def rouge(
    source: str | Path,
    *,
    against: Sequence[str | Path] = (),
    threshold: float = 0.7,
    averages: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_progress: ProgressCallback = lambda what, done, total: None,
) -> RougeResult:
    """Screen a dataset's instructions by ROUGE-L, as Self-Instruct does, after taking those of `against` as they are.

    An instruction is rejected when its F1 with an earlier one is above `threshold`. `averages` compares every pair, for
    the ten most similar of each and its mean. `out` takes a JSON object a line for each instruction. Raises RecipeError
    for what cannot be read, and RunError where `out` is there and not to `overwrite`.
    """
    from magpie.data.rouge import screen_files
    from magpie.escaping import as_json
    from magpie.storage.writing import make_folders, replacing

    if not 0 < threshold <= 1:
        raise RecipeError(f"a ROUGE-L threshold is above 0 and at most 1, not {threshold:g}")
    target = None if out is None else Path(out)
    if target is not None and target.exists() and not overwrite:
        raise RunError(
            f"{target} is there already; replace it with --overwrite, or name another file with --out"
        )
    result = screen_files(
        str(source),
        against=[str(name) for name in against],
        threshold=threshold,
        averages=averages,
        on_progress=on_progress,
    )
    if target is not None:
        make_folders(target.parent)
        with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{as_json(row)}\n" for row in result.rows())
    return result


def _open(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _load(filter: Filter | str | Path) -> Filter:
    return load_filter(filter) if isinstance(filter, str | Path) else filter


def _rows(source: Run | str | Path, split: str | None = None) -> RowSource:
    """The rows of a run, or of a dataset that belongs to no run."""
    if isinstance(source, Run):
        return RunRows(source)
    if is_run(open_storage(source)):
        return RunRows(Run.open(source))
    from magpie.data.published import Published

    return Published(source, split)
