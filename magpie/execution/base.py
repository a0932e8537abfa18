"""What workers are given and what they report, and what an executor is. All of it can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from magpie.plan import BoundPlan, Phase
from magpie.runs.run import Run
from magpie.storage.sealed import Shard


@dataclass(frozen=True, slots=True)
class Isolation:
    """How the requests of a shard are made whose engine has died, to find the request that kills it.

    Every request is announced before it is made, and of the `suspects`, or of all requests where these are None, so
    many are in the engine `at_once`. Those in `deadly` are not made: their rows get an engine error.
    """

    at_once: int
    suspects: frozenset[str] | None = None
    deadly: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be taken through the steps of a phase.

    `made_from` is the lineage of its rows before the phase. `committed` holds, by step number, the shards that the
    phase's steps have left already: one that was made from the very same rows is kept. `earlier` is the lineage of the
    shards before it, where the step is sequential. `sources` names, by step number, the earlier runs in which rows of
    the shard may stand.
    """

    shard: int
    made_from: str
    committed: Mapping[int, Shard]
    isolation: Isolation | None = None
    earlier: str = ""
    sources: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker loads a model, or what steps need, before it takes shards."""

    what: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine is loaded, which works on so many completions at once, with these other settings."""

    model: str
    revision: str
    engine: str
    slots: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Working:
    """Everything is loaded, and shards are on their way through these steps."""

    steps: str


@dataclass(frozen=True, slots=True)
class Began:
    """A step begins with a shard."""

    step: str
    shard: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A completion or score of a row of `shard` came back, or several: the numbers are their sums.

    `cached_tokens` of the `prompt_tokens` were in the engine's prefix cache; None where the engine does not say.
    `replaced` is how many places in the text were no characters.
    """

    step: str
    tokens: int
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    replaced: int = 0
    shard: int | None = None
    completions: int = 1

    def __add__(self, other: Completed) -> Completed:
        """Both together: of one step and shard, and by an engine that says what it had in its cache, or does not."""
        return Completed(
            self.step,
            self.tokens + other.tokens,
            self.prompt_tokens + other.prompt_tokens,
            None if self.cached_tokens is None else self.cached_tokens + (other.cached_tokens or 0),
            self.replaced + other.replaced,
            self.shard,
            self.completions + other.completions,
        )


def merge_completions(events: Iterable[Event]) -> list[Event]:
    """The events in their order, completions of one step and shard as one: an engine gives thousands a second."""
    merged: list[Event] = []
    completed: dict[tuple[str, int | None, bool], Completed] = {}
    for event in events:
        if isinstance(event, Completed):
            key = event.step, event.shard, event.cached_tokens is None
            completed[key] = completed[key] + event if key in completed else event
        else:
            # What is told of the shard next counts on them.
            merged.extend(completed.values())
            completed.clear()
            merged.append(event)
    return [*merged, *completed.values()]


@dataclass(frozen=True, slots=True)
class Asked:
    """A shard in isolation is about to make a request."""

    shard: int
    request: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A request of a shard in isolation came back."""

    shard: int
    request: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A step's shard is on disk, with so many rows, of which the step rejected so many."""

    step: str
    number: int
    shard: int
    rows: int
    rejected: int
    committed: Shard


@dataclass(frozen=True, slots=True)
class TookOver:
    """Rows of a step's shard stand in an earlier run: nothing is made for them."""

    step: str
    shard: int
    rows: int


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard is through with the phase."""

    shard: int


@dataclass(frozen=True, slots=True)
class Found:
    """A step's shard was there already, with so many rows, of which the step had rejected so many."""

    step: str
    rows: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """A step that sees every row at once is at `what`, and has done so much of so much of it."""

    step: str
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """No more comes from these steps, whether they came to their end or not."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a person should know."""

    text: str


Event = (
    Loading | Loaded | Working | Began | Completed | Asked | Answered | Committed | TookOver | ShardDone | Found
    | Advanced | PhaseEnded | Noted
)  # fmt: skip
Report = Callable[[Event], None]
"""Takes events, of workers and of the driver. It may be called from any thread, and returns at once."""


class Executor(Protocol):
    """Hands the shards of a phase to workers, and passes their events on."""

    async def run(
        self, run: Run, bound: BoundPlan, phase: Phase, tasks: Sequence[ShardTask], report: Report
    ) -> None:
        """Take every shard through the phase. What has begun when this raises is dropped, not half written."""

    def drain(self) -> bool:
        """Begin with no more shards: `run` returns when those in flight are through. Whether there are any."""

    async def close(self) -> None:
        """Let go of all that is loaded."""
