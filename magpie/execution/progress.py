"""What a person sees while a build runs, and what the log remembers.

On a terminal: a live table, a line a step; in a notebook's cell likewise. Elsewhere: plain lines, every so many
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from magpie.execution.base import (
    Advanced,
    Began,
    Committed,
    Completed,
    Event,
    Found,
    Loaded,
    Loading,
    Noted,
    PhaseEnded,
    TookOver,
    Working,
)
from magpie.execution.counts import StepCount
from magpie.execution.log import Log
from magpie.plan.phases import needs_engine
from magpie.runs.live import StepProgress
from magpie.runs.run import RunStep

_PLAIN_EVERY = 15.0
_CELL_EVERY = 0.5
_BAR = 20

Cell = Callable[[RenderableType], None]
"""Shows a table in the place of the one before, such as in a notebook's cell."""


class Progress:
    """Counts rows and tokens for each step, and shows them on the console, or in the cell of a notebook."""

    def __init__(
        self,
        steps: Iterable[RunStep],
        rows: int,
        *,
        log: Log,
        console: Console | None = None,
        cell: Cell | None = None,
    ) -> None:
        self.counts = {
            step.name: StepCount(step.name, needs_engine(step), answers_each=_planned_answers(step))
            for step in steps
        }
        self.log = log
        self.began_at = time.monotonic()
        self.planned: Mapping[str, float] = {}
        """The rows/s that are planned at most, by the first step of a phase; empty where there is no plan."""
        self._rows = rows
        self._console = console
        self._cell = cell
        self._notes: list[RenderableType] = []  # what stands below the table in a cell
        self._doing = "starting"
        self._last_line = 0.0
        self._shown_at = 0.0
        # What a global step is at, since when, and how much of it was done then.
        self._stage = ("", 0.0, 0)
        live = console is not None and console.is_terminal
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=4) if live else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._show_in_cell(0.0)
        self.log.announcer.end()

    def handle(self, event: Event) -> None:
        """Count and show what has happened."""
        match event:
            case Found(step, rows, rejected):
                self.found(step, rows, rejected)
            case Loading(what):
                self.doing(f"loading {what}")
            case Loaded(model, revision, engine, slots, settings):
                self.log.write(
                    "loaded", model=model, revision=revision, engine=engine, slots=slots, **settings
                )
            case Working(steps):
                if steps != self._doing:  # a sequential step says so at each of its shards
                    self.doing(steps)
            case Began(step, shard):
                self.began(step, shard)
            case Completed():
                self.completed(event)
            case Committed(step, _, shard, rows, rejected, _):
                self.committed(step, shard, rows, rejected)
            case TookOver(step, shard, rows):
                self.took_over(step, shard, rows)
            case Advanced(step, what, done, total):
                self.advanced(step, what, done, total)
            case PhaseEnded(steps):
                self.note_taken_over(steps)
                self.log_prefix_cache(steps)
                self.note_replaced(steps)
            case Noted(text):
                self.note(text)

    def found(self, step: str, rows: int, rejected: int) -> None:
        """A shard of `step` was there already."""
        count = self.counts[step]
        count.rows += rows
        count.rejected += rejected

    def doing(self, what: str, **facts: Any) -> None:
        """Say what the build is at now, such as loading a model."""
        self._doing = what
        self._announce()
        self.log.write("doing", what=what, **facts)
        self._print(what)
        self._show_in_cell(0.0)

    def began(self, step: str, shard: int | None = None) -> None:
        """`step` starts on a shard, perhaps again."""
        if shard is not None:
            self.counts[step].answers_in.pop(shard, None)
        self.counts[step].note_work()

    def completed(self, done: Completed) -> None:
        """Completions came back."""
        count = self.counts[done.step]
        count.answered += done.completions
        if done.shard is not None:
            count.answers_in[done.shard] = count.answers_in.get(done.shard, 0) + done.completions
        count.tokens += done.tokens
        count.replaced += done.replaced
        if done.cached_tokens is not None:
            count.prompt_tokens += done.prompt_tokens
            count.cached_tokens += done.cached_tokens
        count.note_work()
        self._tick()

    def took_over(self, step: str, shard: int, rows: int) -> None:
        """Rows of a shard stand in an earlier run."""
        count = self.counts[step]
        count.taken_in[shard] = rows
        count.taken_over += rows

    def committed(self, step: str, shard: int, rows: int, rejected: int) -> None:
        """A shard of `step` is on disk."""
        count = self.counts[step]
        made = rows - count.taken_in.pop(shard, 0)
        count.rows += rows
        count.fresh += made
        count.rejected += rejected
        count.left_out(shard, max(made, 1))
        count.note_work()
        # Rates are worked out of these rows: those that were taken over took no time.
        self.log.write("shard", step=step, shard=shard, rows=made, rejected=rejected, tokens=count.tokens)
        self._tick()

    def note_taken_over(self, steps: Iterable[str]) -> None:
        """Say of how many rows of these steps nothing was made, as they stand in an earlier run."""
        for count in (self.counts[step] for step in steps):
            if count.taken_over:
                self.log.write("taken over", step=count.name, rows=count.taken_over)
                if count.needs_engine:
                    self.note(f"{count.name}: {count.taken_over:,} rows stand, nothing was made for them")
                count.taken_over = 0

    def log_prefix_cache(self, steps: Iterable[str]) -> None:
        """Log how much of these steps' prompts this build's engine had in its prefix cache, where it says."""
        for count in (self.counts[step] for step in steps):
            if count.prompt_tokens:
                self.log.write(
                    "prefix cache",
                    step=count.name,
                    prompt_tokens=count.prompt_tokens,
                    cached_tokens=count.cached_tokens,
                    hit_rate=round(count.cached_tokens / count.prompt_tokens, 4),
                )

    def note_replaced(self, steps: Iterable[str]) -> None:
        """Say how much of what the engine wrote was no valid text."""
        for count in (self.counts[step] for step in steps):
            if count.replaced:
                what = (
                    "place that was no character" if count.replaced == 1 else "places that were no characters"
                )
                self.note(
                    f"{count.name}: {count.replaced:,} {what} in what the engine wrote; U+FFFD stands there"
                )

    def advanced(self, step: str, what: str, done: int, total: int) -> None:
        """A step that sees every row at once is at `what`, and has done so much of so much of it."""
        now = time.monotonic()
        if what != self._stage[0]:
            self._stage = (what, now, done)
        seconds, fresh = now - self._stage[1], done - self._stage[2]
        left = f", {clock((total - done) * seconds / fresh)} left" if fresh > 0 and done < total else ""
        self._doing = f"{step}: {what}, {done / max(total, 1):.0%}{left}"
        if self.log.announcer.is_due:
            self._announce()
        if now - self._last_line >= _PLAIN_EVERY:
            self._print(self._doing)
        self._show_in_cell(_CELL_EVERY)

    def note(self, text: str) -> None:
        """Something a person should know: shown, and logged."""
        self.log.write("note", text=text)
        line = Text.assemble(("note", "yellow"), " ", text)
        if self._console is not None:
            self._console.print(line)
        if self._cell is not None:
            self._notes.append(line)
            self._show_in_cell(0.0)

    def _announce(self) -> None:
        steps = [
            StepProgress(
                name=count.name,
                rows=count.rows,
                rows_in_all=self._rows,
                fresh=count.fresh,
                in_hand=self._done(count) - count.rows,
                tokens=count.tokens,
                rows_per_second=self._made(count) / count.seconds if self._made(count) else None,
                seconds_left=self._seconds_left(count),
            )
            for count in list(self.counts.values())
            if count.rows or count.started is not None
        ]
        self.log.announcer.say(self._doing, steps)

    def _tick(self) -> None:
        now = time.monotonic()
        if self.log.announcer.is_due:
            self._announce()
        if self._console is not None and self._live is None and now - self._last_line >= _PLAIN_EVERY:
            busy = [
                self._line(count)
                for count in self.counts.values()
                if count.started and count.rows < self._rows
            ]
            if busy:
                self._print("; ".join(busy))
        self._show_in_cell(_CELL_EVERY)

    def _show_in_cell(self, wait: float) -> None:
        """Show the table in the notebook, unless that was done less than so many seconds ago."""
        now = time.monotonic()
        if self._cell is not None and now - self._shown_at >= wait:
            self._shown_at = now
            self._cell(Group(self._render(), *self._notes))

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._console is not None and self._live is None:
            self._console.print(Text(text), soft_wrap=True)

    def _line(self, count: StepCount) -> str:
        parts = [f"{count.name} {self._done(count):,}/{self._rows:,}"]
        if count.needs_engine and count.tokens:
            parts.append(f"{count.tokens / count.seconds:,.0f} tokens/s")
        if count.rejected:
            parts.append(f"{count.rejected} rejected")
        if self._eta(count):
            parts.append(f"{self._eta(count)} left")
        return ", ".join(parts)

    def _done(self, count: StepCount) -> int:
        """The rows that are done, those of unfinished shards included: a shard may take an hour."""
        # Never all of them before the last shard is on disk: how many completions a row takes is an estimate.
        return (
            count.rows if count.rows >= self._rows else min(self._rows - 1, int(count.rows + count.under_way))
        )

    def _made(self, count: StepCount) -> int:
        """The rows that this build has done."""
        return count.fresh + self._done(count) - count.rows

    def _eta(self, count: StepCount) -> str:
        left = self._seconds_left(count)
        return "" if left is None else clock(left)

    def _seconds_left(self, count: StepCount) -> float | None:
        made = self._made(count)
        if not made or count.rows >= self._rows:
            return None
        return (self._rows - self._done(count)) * count.seconds / made

    def _render(self) -> RenderableType:
        title = Text(self._doing, style="bold")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        planned = ("planned",) if self.planned else ()
        for heading in ("step", "rows", "", "rejected", "rows/s", *planned, "tokens", "tokens/s", "left"):
            table.add_column(heading, justify="left" if heading in {"step", ""} else "right")
        for count in self.counts.values():
            done, made = self._done(count), self._made(count)
            rate = self.planned.get(count.name)
            table.add_row(
                count.name,
                f"{done:,}/{self._rows:,}",
                _bar(done / self._rows, "green"),
                f"{count.rejected:,}" if count.rejected else "",
                f"{made / count.seconds:,.1f}" if made and count.started is not None else "",
                *(() if not planned else ("" if rate is None else f"≤ {rate:,.1f}",)),
                f"{count.tokens:,}" if count.tokens else "",
                f"{count.tokens / count.seconds:,.0f}" if count.tokens else "",
                self._eta(count),
            )
        funnel = running_funnel(self.counts.values())
        return table if funnel is None else Group(table, funnel)


def _planned_answers(run_step: RunStep) -> float:
    """How many completions a row takes by the plan: with one for each, three questions of a judge look done at once."""
    return max(sum(request.count for request in run_step.step.requests), 1.0)


def running_funnel(counts: Iterable[StepCount]) -> Table | None:
    """What is left after each step that rejects rows, as a share of the rows it has seen; None while none is out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    left, any_out = 1.0, False
    for count in counts:
        if not count.rows or not count.rejected:
            continue
        any_out = True
        left = max(left - count.rejected / count.rows, 0.0)
        table.add_row(
            Text(f"left after {count.name}", "dim"), _bar(left, "cyan"), f"{left:.0%}",
            Text(f"about {round(left * count.rows):,} of {count.rows:,}", "dim"),
        )  # fmt: skip
    return table if any_out else None


def _bar(share: float, style: str) -> Text:
    full = round(min(share, 1.0) * _BAR)
    return Text.assemble(("━" * full, style), ("━" * (_BAR - full), "dim"))


def clock(duration: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03."""
    seconds = int(duration)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
