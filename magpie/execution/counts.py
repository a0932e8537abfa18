"""How far each step of a running build is, from the events of its workers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class StepCount:
    """How far a step is: `rows` committed, `fresh` of them by this build; `answered` completions, `tokens` in them.

    `replaced` counts places in their texts that were no characters. `prompt_tokens` and `cached_tokens` count the
    prompts of which the engine says how much it had in its prefix cache.
    """

    name: str
    needs_engine: bool
    rows: int = 0
    rejected: int = 0
    tokens: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    fresh: int = 0
    replaced: int = 0
    started: float | None = None
    last: float = field(default_factory=time.monotonic)
    answers_in: dict[int, int] = field(default_factory=dict)
    """Completions that came back, by shard, of the shards that are not committed yet."""
    taken_over: int = 0
    """Rows that stand in an earlier run, of which nobody has been told yet."""
    taken_in: dict[int, int] = field(default_factory=dict)
    """The same by shard, of the shards that are not committed yet."""
    answers_each: float = 1.0
    """Completions for a row: as planned, and once a shard is committed, what the last one took."""

    @property
    def under_way(self) -> float:
        """About how many rows of shards that are not committed yet are done."""
        return sum(self.answers_in.values()) / self.answers_each

    def left_out(self, shard: int, rows: int) -> None:
        """A shard is committed: its rows are no longer under way, and say how many completions one takes."""
        answers = self.answers_in.pop(shard, 0)
        if answers:
            self.answers_each = max(answers / rows, 1e-9)

    def done(self, of: int) -> int:
        """The rows that are done, those of unfinished shards included: a shard may take an hour."""
        # Never all of them before the last shard is on disk: how many completions a row takes is an estimate.
        return self.rows if self.rows >= of else min(of - 1, int(self.rows + self.under_way))

    def made(self, of: int) -> int:
        """The rows that this build has done."""
        return self.fresh + self.done(of) - self.rows

    def seconds_left(self, of: int) -> float | None:
        """Seconds until all rows are done, at the speed so far; None where nothing was made yet, or all is."""
        made = self.made(of)
        return None if not made or self.rows >= of else (of - self.done(of)) * self.seconds / made

    @property
    def seconds(self) -> float:
        """Seconds from the step's first work in this build to its latest."""
        return 0.0 if self.started is None else max(self.last - self.started, 1e-9)

    def note_work(self) -> None:
        """Note that work was done now."""
        self.last = time.monotonic()
        self.started = self.last if self.started is None else self.started


def clock(duration: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03."""
    seconds = int(duration)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
