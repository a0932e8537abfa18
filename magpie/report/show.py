"""Rows of a run, printed: some that were kept, the rejected ones by reason, or one row in full.

A row of an unfinished run has the columns of the steps that its shard has been through. Only shards with rows to print
are read in full.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from magpie.errors import RunError
from magpie.escaping import one_line
from magpie.figures.report_rows import own_tags
from magpie.report.text import as_text
from magpie.runs.ids import parse_id, prefix_of, row_id
from magpie.runs.run import Run
from magpie.steps.base import REJECTED
from magpie.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.runs.run import RunStep

_TAGS = {
    "task_category": "{}",
    "difficulty": "{}",
    "input_quality": "{} quality",
    "language": "{}",
    "instruct_reward": "reward {}",
    "chosen_reward": "chosen {}",
    "rejected_reward": "rejected {}",
}
_PAIR = {"chosen": "chosen_response", "rejected": "rejected_response"}
_TEXTS = ("raw_instruction", "instruction", "reasoning", "response", "later_turns", *_PAIR.values())
_LONGEST = 20_000  # characters of a message on a card
_SPEAKER_STYLES = {
    "user": "bold cyan",
    "assistant": "bold green",
    "chosen": "bold green",
    "rejected": "bold red",
}


def show_rows(run: Run, console: Console, *, n: int = 5, seed: int = 0) -> None:
    """Print `n` kept rows as cards, chosen by `seed`. In an unfinished run they are rows not rejected so far."""
    chooser = random.Random(seed)
    shards = [shard for shard in range(run.shards) if _next_step(run, shard) is not run.steps[0]]
    # One shard is read, and a second only where that has too few rows: no position of a run differs from another, so
    # the rows of one shard are a fair choice.
    chooser.shuffle(shards)
    _print_unfinished(run, console)
    printed, own = 0, own_tags([run_step.step for run_step in run.steps])
    for shard in shards:
        if printed == n:
            break
        rows = _rows(run, shard, (*_TEXTS, *_TAGS, *own))
        kept = [row for row in rows.to_pylist() if row[REJECTED.name] is None]
        chosen = chooser.sample(kept, min(n - printed, len(kept)))
        for row in sorted(chosen, key=lambda row: int(row["index"])):
            said = [f"{name} {_short(row[name])}" for name in own if row.get(name) is not None]
            console.print(card(row, said))
            printed += 1
    if not printed:
        console.print(
            "no row is in; see why with --rejected" if shards else "no row is made yet", highlight=False
        )


def show_rejected(run: Run, console: Console, *, examples: int = 3) -> None:
    """Print each reason why rows are rejected, the most frequent first, with its count and its first rows."""
    counts: dict[str, int] = defaultdict(int)
    first: dict[str, list[tuple[int, int]]] = defaultdict(list)  # (shard, position in it)
    rows_made = 0
    for shard in range(run.shards):
        if _next_step(run, shard) is run.steps[0]:
            continue
        reasons = _rows(run, shard, (), check=False)[REJECTED.name].to_pylist()
        rows_made += len(reasons)
        for position, reason in enumerate(reasons):
            if reason is not None:
                counts[reason] += 1
                if len(first[reason]) < examples:
                    first[reason].append((shard, position))
    texts = _examples(run, {place for places in first.values() for place in places})
    _print_unfinished(run, console)
    console.print(f"{sum(counts.values()):,} of {rows_made:,} rows are out", highlight=False)
    for reason in sorted(counts, key=lambda reason: (-counts[reason], reason)):
        heading = as_text(reason, "bold").append(f"  {counts[reason]:,}", "not bold")
        console.print(Text("\n").append_text(heading))
        for place in first[reason]:
            row_id, text = texts[place]
            example = Text(row_id, "dim").append("  ").append_text(as_text(text, "not dim"))
            console.print(Padding(example, (0, 0, 0, 2)))


def show_row(run: Run, typed: str, console: Console) -> None:
    """Print one row in full: every column, step by step, and why it is out, if it is.

    `typed` is the row's id, or its position alone, such as 17. Raises RunError, naming the nearest ids, when the run
    has no such row.
    """
    shard, position = _place(run, typed)
    next_step = _next_step(run, shard)
    row = _row(run, shard, position)
    console.print(Rule(as_text(str(row["id"]), "bold"), align="left"))
    reason = row[REJECTED.name]
    if reason is not None:
        console.print(Text("out: ", "bold red").append_text(as_text(reason, "not bold")))
    elif next_step is not None:
        console.print(
            Text(f"in so far, and {next_step.name} is next: the build is not finished", "bold yellow")
        )
    else:
        console.print(Text("in: it is in the dataset", "bold green"))
    for run_step in _done_steps(run, shard):
        here = run.read(run_step, shard).slice(position, 1)
        values = here.to_pylist()[0]
        console.print(Text(f"\n{run_step.folder}", "bold blue"))
        derived = {name: made.to_pylist()[0] for name, made in run_step.step.derive(here).items()}
        shown = {
            name: values[name] for name in run_step.step.adds.names if name != REJECTED.name or values[name]
        }
        print_fields(shown | {name: value for name, value in derived.items() if value is not None}, console)


def _next_step(run: Run, shard: int) -> RunStep | None:
    """The first step that a shard has not been through; None when it has been through all."""
    return next((run_step for run_step in run.steps if not run.has_shard(run_step, shard)), None)


def _done_steps(run: Run, shard: int) -> list[RunStep]:
    """The steps before that one."""
    next_step = _next_step(run, shard)
    return [step for step in run.steps if next_step is None or step.number < next_step.number]


def _rows(run: Run, shard: int, columns: Sequence[str], *, check: bool = True) -> pa.Table:
    """A shard's rows after the steps it has been through, with those of `columns` that they have by then."""
    made = {name for run_step in _done_steps(run, shard) for name in run_step.step.adds.names}
    present = [name for name in columns if name in made]
    return run.rows(shard, present, before=_next_step(run, shard), check=check)


def _row(run: Run, shard: int, position: int) -> dict[str, Any]:
    """`id`, `index` and `rejected` of one row."""
    row: dict[str, Any] = _rows(run, shard, ()).slice(position, 1).to_pylist()[0]
    return row


def _print_unfinished(run: Run, console: Console) -> None:
    """Say that the build is not finished, where it is not."""
    waiting = [step for shard in range(run.shards) if (step := _next_step(run, shard)) is not None]
    if waiting:
        first = min(waiting, key=lambda step: step.number)
        console.print(
            f"the build is not finished: {len(waiting)} of {run.shards} shards still have steps to go, from "
            f"{first.name} on; rows are shown as far as they have come",
            style="yellow",
            highlight=False,
        )


def columns_shown(*, tags: bool = False) -> tuple[str, ...]:
    """The columns that a card shows: the texts, and the tags too where they are asked for."""
    return (*_TEXTS, *_TAGS) if tags else _TEXTS


def row_tables(
    run: Run, columns: Sequence[str], *, of: Sequence[int] | None = None, check: bool = True
) -> Iterator[tuple[int, pa.Table]]:
    """The shards that are begun (those in `of`, if it is given), each with its rows as far as they have come."""
    for shard in range(run.shards) if of is None else of:
        if _next_step(run, shard) is not run.steps[0]:
            yield shard, _rows(run, shard, list(dict.fromkeys(columns)), check=check)


def card(row: dict[str, Any], more: Sequence[str] = ()) -> Panel:
    """A row with its tags, what `more` is to be said of it, and its conversation."""
    tags = [words.format(_short(row[name])) for name, words in _TAGS.items() if row.get(name) is not None]
    tags += more
    parts: list[Text] = [as_text(" · ".join(tags), "dim")] if tags else []
    for message in _conversation(row):
        style = _SPEAKER_STYLES.get(message["role"], "bold")
        parts.append(as_text(message["role"], style))
        parts.append(as_text(_cut((message["content"] or "").strip())))
    return Panel(Group(*parts), title=as_text(str(row["id"])), title_align="left", border_style="dim")


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}\n[{counted(len(text) - _LONGEST, 'more character')}]"


def _conversation(row: dict[str, Any]) -> list[dict[str, str]]:
    if row.get("messages") is not None:
        return list(row["messages"])
    instruction = row.get("instruction")
    text = instruction if instruction is not None else row.get("raw_instruction")
    messages = [{"role": "user", "content": text or ""}]
    if row.get("response") is not None:
        if row.get("reasoning"):
            messages.append({"role": "reasoning", "content": row["reasoning"]})
        messages.append({"role": "assistant", "content": row["response"]})
    pair = [{"role": side, "content": row[name]} for side, name in _PAIR.items() if row.get(name) is not None]
    return [*messages, *(row.get("later_turns") or []), *pair]


def _examples(run: Run, places: set[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, str]]:
    """The id and the text, on one line, of the rows at these places: each a shard, and a position in it."""
    texts = {}
    for shard in sorted({shard for shard, _ in places}):
        rows = _rows(run, shard, ("raw_instruction", "instruction"))
        for position in sorted(position for other, position in places if other == shard):
            row = rows.slice(position, 1).to_pylist()[0]
            texts[shard, position] = (row["id"], one_line(_conversation(row)[0]["content"]) or "(nothing)")
    return texts


def print_fields(values: Mapping[str, Any], console: Console) -> None:
    """Print the columns that hold something, and how many are empty."""
    empty = [name for name, value in values.items() if value is None or value == []]
    for name, value in values.items():
        if name not in empty:
            console.print(Padding(_field(name, value), (0, 0, 0, 2)))
    if empty:
        names = f"{len(empty)} empty: {', '.join(empty)}"
        console.print(Padding(as_text(names, "dim"), (0, 0, 0, 2)))


def _field(name: str, value: Any) -> Text:
    """A column's name and value, on one line or on several."""
    label = Text(f"{name}: ", "cyan")
    if isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() == {"role", "content"} for item in value
    ):
        turns = [f"{message['role']}: {message['content']}" for message in value]
        return Text("\n").join([label, *(as_text(turn) for turn in turns)])
    if isinstance(value, str) and "\n" in value:
        return label.append("\n").append_text(as_text(value))
    return label.append_text(as_text(_short(value)))


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 12 and isinstance(value[0], float):
        return f"{len(value)} numbers: {', '.join(f'{number:.4g}' for number in value[:4])}, …"
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value) or "(none)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _place(run: Run, typed: str) -> tuple[int, int]:
    """The shard of a row, and its position in it."""
    # No search is needed: an id ends in the row's position.
    parsed = parse_id(typed)
    started = next((shard for shard in range(run.shards) if _next_step(run, shard) is not run.steps[0]), None)
    if started is None:
        raise RunError(f"{run.storage.location} holds no rows yet; run the build to make some")
    prefix = prefix_of(str(_rows(run, started, ())["id"][0]))
    last = run.recipe.rows - 1
    index = min(parsed[1], last) if parsed else 0
    if parsed is None or parsed[0] not in {None, prefix} or parsed[1] != index:
        around = range(max(0, index - 1), min(last, index + 1) + 1)
        near = ", ".join(row_id(prefix, number) for number in around)
        raise RunError(
            f"{run.storage.location} has no row {one_line(typed)!r}; the nearest ids are {near}, and the run goes from "
            f"{row_id(prefix, 0)} to {row_id(prefix, last)}"
        )
    shard = index // run.recipe.shard_rows
    if _next_step(run, shard) is run.steps[0]:
        raise RunError(f"row {row_id(prefix, index)} is not made yet; run the build again to go on")
    return shard, index - run.shard_range(shard).start
