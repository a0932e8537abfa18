"""Datasets on their way out: exports, cards, the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magpie.runs.opened import as_run
from magpie.runs.run import Run

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.neighbors.vectors import ProgressCallback
    from magpie.publish.formats import Exported, Format
    from magpie.publish.hub.push import Pushed
    from magpie.publish.source import What
    from magpie.publish.trainers import Trainer, TrainerFolder


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
    forms: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> Exported:
    """Write the dataset of a run, a folder or a file in a form that trainers read; the result has rows and reasons.

    `format` is messages (trl-sft), sharegpt, alpaca, preference (trl-preference), magpie, openai, llama-factory,
    axolotl, csv, prompt-completion or text. `out` ends in .jsonl, .json (also .gz or .zst), .parquet, or for csv in
    .csv. `columns` are those to write beside the format's own; `drop_empty` and `drop_constant` leave out columns that
    say nothing. `where` is a rule as in filters. `max_tokens` are those of the conversation by the template of
    `tokenizer`, which `text` needs too. `shuffle` is a seed, and `limit` takes the first rows of its order. `split` is
    "0.98/0.02", for train and test. `forms` is the seed by which each instance of a task is written in one of several
    forms.

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
        forms=forms,
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

    `trainer` is trl, axolotl or llama-factory. `options` are `where`, `max_tokens`, `limit`, `tokenizer`, `shuffle`,
    `rows_per_file` and `forms`, as in `export`. Raises RunError where the folder holds other things, or is not to
    `overwrite`.
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
        Follower(as_run(source), wish, say=say, patience=patience).follow()
    publisher = Publisher(open_source(source), wish, patience=patience)
    if console is not None:
        publisher.bar = bar_on(console)
    return publisher.push()


def _said_on(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)
