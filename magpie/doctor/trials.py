"""Recipe lines tried out: each alone, then together, sampled with the seeds of the first sample on the same engine.

Only what measurably helped is kept: see `verdict.helped`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magpie.doctor.measures import Neighbors, Sample, measure
from magpie.doctor.verdict import helped, is_ready, is_usable, troubles, whole
from magpie.errors import EngineError, MagpieError
from magpie.recipe.loading import load_recipe, parse_value

if TYPE_CHECKING:
    from magpie.doctor.measures import Written
    from magpie.doctor.sampling import Sampler
    from magpie.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trial:
    """What a sample with `changes` made was like. `problem` says why there is none; `neighbors` are added later."""

    changes: tuple[str, ...]
    sample: Sample | None = None
    helped: bool = False
    problem: str | None = None
    written: Written | None = None
    neighbors: Neighbors | None = None

    @property
    def valid(self) -> int:
        """How many rows are valid."""
        return 0 if self.sample is None else sum(self.sample.whole)

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON can hold it."""
        found: dict[str, Any] = {"changes": list(self.changes), "helped": self.helped}
        if self.sample is None:
            return found | {"problem": self.problem}
        return found | self.sample.to_json() | neighbors_json(self.neighbors)


def neighbors_json(neighbors: Neighbors | None) -> dict[str, Any]:
    """Mean neighbour distance and duplicate rate; null where they are not known."""
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
    """Each line alone; all together; and those that helped together, where they are some of several.

    A line that the model or the engine refuses is a trial without a sample. Raises EngineError when the engine is lost.
    """
    trials = [await _try(sampler, recipe, before, (line,)) for line in lines]
    if len(lines) > 1:
        trials.append(await _try(sampler, recipe, before, tuple(lines)))
        good = tuple(line for trial in trials[:-1] if trial.helped for line in trial.changes)
        if 1 < len(good) < len(lines):
            trials.append(await _try(sampler, recipe, before, good))
    return tuple(trials)


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
    """The trial whose changes are worth keeping: most rows valid, and of equal ones the fewest changes.

    A line that did not help by itself is kept only where none did and all together do.
    """
    alone = tuple(
        line for trial in trials if trial.helped and len(trial.changes) == 1 for line in trial.changes
    )
    worth = [trial for trial in trials if trial.helped and (not alone or set(trial.changes) <= set(alone))]
    return max(worth, key=lambda trial: (trial.valid, -len(trial.changes)), default=None)


def judge_trials(before: Sample, trials: Sequence[Trial], more: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The verdict when lines were tried, and the lines that helped. `more` is advice that no line can try."""
    winner = best(trials)
    kept = winner.changes if winner is not None else ()
    after = winner.sample if winner is not None and winner.sample is not None else before
    lines = "; ".join(kept)
    shares = f"{before.rates['valid']:.0%} of {before.rows} whole before, {after.rates['valid']:.0%} with"
    if is_ready(before):
        verdict = f"ready: {whole(before)}" + (f", {after.rates['valid']:.0%} with {lines}" if kept else "")
    elif is_usable(after):
        found = f"{lines} ({shares})" if kept else f"what was sampled ({whole(before)}: {troubles(before)})"
        verdict = f"usable with: {found}"
    else:
        found = f"{whole(before)}" + (f", {after.rates['valid']:.0%} with {lines}" if kept else "")
        verdict = f"not usable: only {found} ({troubles(after)}); take another instruction-tuned model"
    alone = [trial for trial in trials if len(trial.changes) == 1 and trial.changes[0] not in kept]
    for said, refused in (("tried without help", False), ("refused", True)):
        useless = [
            trial.changes[0] for trial in alone if (trial.sample is None) is refused and not trial.helped
        ]
        verdict += f"; {said}: {'; '.join(useless)}" if useless else ""
    if not trials:
        verdict += "; there was nothing to try"
    if more and not is_ready(after):
        verdict += f"; not tried: {'; '.join(more)}"
    return verdict, kept


def with_neighbors(trials: Sequence[Trial], found: Sequence[Neighbors]) -> tuple[Trial, ...]:
    """The trials that have rows with their neighbours, in order; the rows themselves are let go."""
    left = iter(found)
    return tuple(
        replace(trial, written=None, neighbors=None if trial.written is None else next(left, None))
        for trial in trials
    )
