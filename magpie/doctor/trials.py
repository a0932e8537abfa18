"""Changes of the recipe, tried out: each line alone, then all together.

A trial samples as many rows as the first sample, at the same positions and so with the same seeds, on the engine that
is loaded. Only lines that measurably helped are kept: see `verdict.helped`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magpie.doctor.measures import Neighbors, Sample, measure
from magpie.doctor.sense import READY, Sense, read_sense
from magpie.doctor.verdict import ONLY_FORM, helped, is_ready, is_usable, problem_shares, valid_share
from magpie.errors import EngineError, MagpieError
from magpie.recipe.loading import load_recipe, parse_value

if TYPE_CHECKING:
    from magpie.doctor.measures import Written
    from magpie.doctor.sampling import Sampler
    from magpie.recipe import Recipe


ASK = ("instruct.mode: ask",)
"""The fallback for a model that writes no messages by itself."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A sample with `changes` made to the recipe.

    Where `sample` is None, `problem` says why. `written` holds its rows until `neighbors` are measured.
    """

    changes: tuple[str, ...]
    sample: Sample | None = None
    helped: bool = False
    problem: str | None = None
    written: Written | None = None
    neighbors: Neighbors | None = None
    sense: Sense | None = None

    @property
    def valid(self) -> int:
        """How many rows are valid."""
        return 0 if self.sample is None else sum(self.sample.valid_rows)

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON can hold it."""
        trial: dict[str, Any] = {"changes": list(self.changes), "helped": self.helped}
        if self.sample is None:
            return trial | {"problem": self.problem}
        sense = {} if self.sense is None else self.sense.to_json()
        return trial | self.sample.to_json() | neighbors_json(self.neighbors) | sense


def neighbors_json(neighbors: Neighbors | None) -> dict[str, Any]:
    """Mean neighbour distance and duplicate rate; null where they were not measured."""
    if neighbors is None:
        return {"neighbor_distance": None, "duplicates": None}
    return {"neighbor_distance": neighbors.distance.to_json(), "duplicates": neighbors.duplicates.to_json()}


def with_lines(recipe: Recipe, lines: Sequence[str]) -> Recipe:
    """The recipe with lines such as "instruct.max_tokens: 1024" written into it. Raises RecipeError."""
    pairs = (line.partition(": ") for line in lines)
    return load_recipe(recipe, overrides={path: parse_value(value) for path, _, value in pairs})


def differing(recipe: Recipe, lines: Sequence[str]) -> tuple[str, ...]:
    """Those of the lines that would change the recipe."""
    return tuple(line for line in lines if with_lines(recipe, [line]) != recipe)


async def try_out(
    sampler: Sampler, recipe: Recipe, before: Sample, lines: Sequence[str]
) -> tuple[Trial, ...]:
    """Try each line alone, then all lines together, then those that helped, where that is yet another set of lines.

    A line that the recipe, the model or the engine refuses gives a trial without a sample. Raises EngineError when the
    engine is lost.
    """
    trials = [await _try(sampler, recipe, before, (line,)) for line in lines]
    if len(lines) > 1:
        trials.append(await _try(sampler, recipe, before, tuple(lines)))
        helpful = tuple(line for trial in trials[:-1] if trial.helped for line in trial.changes)
        if 1 < len(helpful) < len(lines):
            trials.append(await _try(sampler, recipe, before, helpful))
    return tuple(trials)


async def try_asking(sampler: Sampler, recipe: Recipe, before: Sample) -> Trial:
    """The model asked for messages in its chat format, which is another method; its texts are read for sense too."""
    trial = await _try(sampler, recipe, before, ASK)
    if trial.written is None:
        return trial
    return replace(trial, sense=await asyncio.to_thread(read_sense, trial.written.rows))


def judge_by_sense(
    verdict: str, changes: tuple[str, ...], before: Sample, sense: Sense, asked: Trial
) -> tuple[str, tuple[str, ...]]:
    """The verdict where too few texts make sense for a ready model, after it was asked for messages.

    `verdict` and `changes` are what the form of the texts alone gave.
    """
    found = (
        f"only {sense.share.value:.0%} of {sense.share.rows} texts read as a user's message, and a ready model has "
        f"{READY:.0%} ({valid_share(before)})"
    )
    when_asked = _better_when_asked(sense, asked)
    if when_asked is not None:
        return (
            f"usable with: {ASK[0]}: {found}; {when_asked.share.value:.0%} of those it writes when asked read as one. "
            "That is another method, and every row says so",
            ASK,
        )
    own = "the template it was tuned with"
    if not sense.is_usable:
        return f"not usable: {found}; take an instruction-tuned model, or {own}", ()
    if not is_usable(before):
        return verdict, changes
    settings = "; ".join(changes) or "what was sampled"
    return f"usable with: {settings}: {found}; if this is not {own}, take that", changes


def _better_when_asked(sense: Sense, asked: Trial) -> Sense | None:
    """What was read of the texts for which the model was asked, where they are worth another method."""
    read = asked.sense
    if asked.sample is None or not is_usable(asked.sample) or read is None or read.why_not is not None:
        return None
    return read if read.is_ready or (read.is_usable and not sense.is_usable) else None


async def _try(sampler: Sampler, recipe: Recipe, before: Sample, changes: tuple[str, ...]) -> Trial:
    try:
        changed = with_lines(recipe, changes)
        written = await sampler.write(changed, before.rows, what=f"with {'; '.join(changes)}")
    except EngineError:
        raise
    except MagpieError as error:
        return Trial(changes, problem=str(error))
    sample = measure(written)
    return Trial(changes, sample, helped(before, sample), written=written)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial whose changes to keep: the one with most valid rows, and of equal ones the one with fewest changes.

    None where nothing helped.
    """
    helpful = {line for trial in trials if trial.helped and len(trial.changes) == 1 for line in trial.changes}
    # A line that did not help alone adds nothing that was measured. It is kept only where no line helped alone and all
    # of them together did.
    candidates = [
        trial for trial in trials if trial.helped and (not helpful or set(trial.changes) <= helpful)
    ]
    return max(candidates, key=lambda trial: (trial.valid, -len(trial.changes)), default=None)


def judge_trials(before: Sample, trials: Sequence[Trial], more: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The verdict after trials, and the lines to keep. `more` is advice that is no recipe line, and was not tried."""
    winner = best(trials)
    kept = winner.changes if winner is not None else ()
    after = winner.sample if winner is not None and winner.sample is not None else before
    lines = "; ".join(kept)
    improved = f", {after.rates['valid']:.0%} with {lines}" if kept else ""
    if is_ready(before):
        verdict = f"ready: {valid_share(before)}{improved}{ONLY_FORM}"
    elif is_usable(after):
        shares = f"{before.rates['valid']:.0%} of {before.rows} whole before, {after.rates['valid']:.0%} with"
        settings = (
            f"{lines} ({shares})"
            if kept
            else f"what was sampled ({valid_share(before)}: {problem_shares(before)})"
        )
        verdict = f"usable with: {settings}"
    else:
        verdict = (
            f"not usable: only {valid_share(before)}{improved} ({problem_shares(after)}); "
            "take another instruction-tuned model"
        )
    verdict += _not_kept(trials, kept)
    if more and not is_ready(after):
        verdict += f"; not tried: {'; '.join(more)}"
    return verdict, kept


def _not_kept(trials: Sequence[Trial], kept: Sequence[str]) -> str:
    """In words, the lines that were tried alone without success, to be added to a verdict."""
    if not trials:
        return "; there was nothing to try"
    alone = [trial for trial in trials if len(trial.changes) == 1 and trial.changes[0] not in kept]
    useless = [trial.changes[0] for trial in alone if trial.sample is not None and not trial.helped]
    refused = [trial.changes[0] for trial in alone if trial.sample is None]
    parts = (("tried without help", useless), ("refused", refused))
    return "".join(f"; {name}: {'; '.join(lines)}" for name, lines in parts if lines)


def with_neighbors(trials: Sequence[Trial], measured: Sequence[Neighbors]) -> tuple[Trial, ...]:
    """The trials with the figures of their neighbours, which are in the order of the trials that have rows.

    The rows themselves are dropped. `measured` is empty where nothing could be measured.
    """
    remaining = iter(measured)
    return tuple(
        replace(trial, written=None, neighbors=None if trial.written is None else next(remaining, None))
        for trial in trials
    )
