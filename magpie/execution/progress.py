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
from magpie.execution.counts import StepCount, clock
from magpie.execution.log import Log
from magpie.execution.progress_table import progress_table
from magpie.plan.phases import needs_engine
from magpie.runs.live import StepProgress
from magpie.runs.run import RunStep
from magpie.secrets import redacted
from magpie.text import counted

_PLAIN_EVERY = 15.0
_CELL_EVERY = 0.5

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
        what = self._doing = redacted(what)  # it may be what a server said
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
        taken = count.taken_in.pop(shard, 0)
        # Where nothing was asked, the shard's rows that are out took no time either.
        made = 0 if taken and count.needs_engine and not count.answers_in.get(shard) else rows - taken
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
                    self.note(f"{count.name}: {counted(count.taken_over, 'row')} taken over as made before")
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
        text = redacted(text)
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
                in_hand=count.done(self._rows) - count.rows,
                tokens=count.tokens,
                rows_per_second=count.made(self._rows) / count.seconds if count.made(self._rows) else None,
                seconds_left=count.seconds_left(self._rows),
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
        parts = [f"{count.name} {count.done(self._rows):,}/{self._rows:,}"]
        if count.needs_engine and count.tokens:
            parts.append(f"{count.tokens / count.seconds:,.0f} tokens/s")
        if count.rejected:
            parts.append(f"{count.rejected} rejected")
        left = count.seconds_left(self._rows)
        if left is not None:
            parts.append(f"{clock(left)} left")
        return ", ".join(parts)

    def _render(self) -> RenderableType:
        return progress_table(self._doing, self.counts.values(), self._rows, self.planned)


def _planned_answers(run_step: RunStep) -> float:
    """How many completions a row takes by the plan: with one for each, three questions of a judge look done at once."""
    return max(sum(request.count for request in run_step.step.requests), 1.0)
