"""What is kept of a run: the rows of its final dataset, and its rows for another filter to choose from.

In a dataset a row has `messages` and the columns that say what it is. A run that makes preference pairs has them as
`prompt`, `chosen` and `rejected`, each a list of messages, as TRL takes them. The run's own `rejected`, why a row is
out, is null in every kept row and stays behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magpie.data.messages import MESSAGES, messages_of, pairs_of
from magpie.errors import RunError
from magpie.runs.provenance import Provenance
from magpie.runs.run import DATASET, REPORT, SUMMARY, Run
from magpie.runs.sealing import RUN_MANIFEST, is_changed
from magpie.steps.base import DOCUMENT, REJECTED, column, is_inner
from magpie.steps.filter import is_reason_of_filter

CONVERSATION = column(
    "messages",
    MESSAGES,
    "The whole conversation; in a dataset of pairs with the chosen answer.",
    published="conversations",
)
PAIR_COLUMNS = (
    column("prompt", MESSAGES, "The instruction of a pair."),
    column("chosen", MESSAGES, "The answer to it with the highest reward."),
    column("rejected", MESSAGES, "The answer to it with the lowest reward."),
)
"""The columns of a dataset that no step makes: the first of every dataset, the others of those of pairs."""

# Inner columns that the messages are made of.
_IN_MESSAGES = ("later_turns", "chosen_response", "rejected_response", DOCUMENT.name)


def write_dataset(run: Run, made_from: str, kept: int) -> None:
    """Write `dataset/` from the `kept` rows that are still in. Does nothing when it is there already.

    `made_from` is the lineage of the run: see `manifest.py`.
    """
    files = run.dataset_files
    if not files.is_made_from(made_from, kept) or is_changed(run.storage, files.inner_names()):
        # What is there is of an earlier state of this run: it must not stay beside the new one.
        files.discard()
        about = Provenance.of(run).to_json()
        files.write(kept_rows(run), kept, name=run.recipe.name, made_from=made_from, about=about)
    else:
        files.restore_configs()


def discard_dataset(run: Run) -> None:
    """Take away a dataset that will be out of date, its summary and report: a finished run has them."""
    run.storage.delete(RUN_MANIFEST)
    run.storage.delete(SUMMARY)
    run.storage.delete(REPORT)
    run.dataset_files.discard()


def kept_rows(run: Run, rejected: Any = None) -> Iterator[pa.Table]:
    """The kept rows in dataset form, a shard at a time.

    `rejected`, the reasons of the whole run in its order, replaces what the run's own filter decided.
    """
    columns = [field.name for field in run.schema if not _stays(field) or field.name in _IN_MESSAGES]
    before = None if rejected is None else run.own_filter
    provenance = Provenance.of(run)
    for shard in range(run.shards):
        rows = run.rows(shard, columns, before=before)
        reasons = rows[REJECTED.name]
        if rejected is not None:
            reasons = rejected.slice(run.shard_range(shard).start, rows.num_rows)
        yield _in_dataset_form(run, provenance, rows.filter(pc.is_null(reasons)))


def _in_dataset_form(run: Run, provenance: Provenance, rows: pa.Table) -> pa.Table:
    messages = messages_of(rows, with_reasoning=_keeps_reasoning(run, "response", "candidates"))
    table = pa.table({"id": rows["id"], "messages": messages})
    if run.step_adding("chosen_response") is not None:
        pairs = pairs_of(rows, with_reasoning=_keeps_reasoning(run, "candidates"))
        for name, answers in pairs.items():
            table = table.append_column(name, answers)
    for field in run.schema:
        if field.name in rows.column_names and not _stays(field) and field.name != "id":
            table = table.append_column(field.name, rows[field.name])
    for name, values in provenance.derive(rows, provenance.derived_in_dataset).items():
        table = table.append_column(name, values)
    for name, model in provenance.credits.items():
        table = table.append_column(name, pa.array([model] * rows.num_rows, pa.string()))
    return table.combine_chunks()


def _stays(field: pa.Field) -> bool:
    """Whether a column stays in the run: how a row came about, and why others are out."""
    return is_inner(field) or field.name in {"index", REJECTED.name}


def _keeps_reasoning(run: Run, *columns: str) -> bool:
    """Whether the step that writes the first of these columns that there is keeps the model's reasoning."""
    writers = (run.step_adding(column) for column in columns)
    writer = next((run_step for run_step in writers if run_step is not None), None)
    return writer is not None and writer.step.keeps_reasoning


class RunRows:
    """The rows of a run, to choose from: a RowSource."""

    what = "the run"

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self._run.recipe.name

    @property
    def about(self) -> dict[str, Any]:
        """The recipe of the run and the engines of its models."""
        return Provenance.of(self._run).to_json()

    @property
    def schema(self) -> pa.Schema:
        """Every column of the run."""
        return self._run.schema

    def columns(self, names: Sequence[str]) -> pa.Table:
        """`id`, `index`, `rejected` and the named columns of every row."""
        run = self._run
        shards = (run.rows(shard, names, before=run.own_filter) for shard in range(run.shards))
        return pa.concat_tables(shards)

    def kept(self, rejected: pa.ChunkedArray) -> Iterator[pa.Table]:
        """The rows whose `rejected` is null, in dataset form."""
        return kept_rows(self._run, rejected)

    def texts(self, at: Sequence[int]) -> dict[int, tuple[str, str]]:
        """The id and the instruction of the rows at these positions."""
        texts: dict[int, tuple[str, str]] = {}
        for shard in sorted({index // self._run.recipe.shard_rows for index in at}):
            here = self._run.shard_range(shard)
            rows = self._run.rows(shard, ["instruction"], check=False)
            for index in (index for index in at if index in here):
                place = index - here.start
                texts[index] = (rows["id"][place].as_py(), rows["instruction"][place].as_py() or "")
        return texts

    def refuse(self, out: Path) -> None:
        """Raise RunError when `out` is the run itself."""
        run = self._run.folder.resolve()
        if out.resolve() in {run, run / DATASET}:
            raise RunError(f"{out} is the run itself; choose another folder with --out")

    def never_answered(self, rows: pa.Table) -> int:
        """How many rows the build's own filter dropped before they were answered."""
        return int(pc.sum(is_reason_of_filter(rows[REJECTED.name])).as_py() or 0)
