"""What each row is steered by: a prompt of the recipe, filled with values of its variables.

A choice is a tuple: the number of a prompt, then for each of the prompt's variables the position of a value. Prompts
may differ in how many variables they have, and choices in how long they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from magpie.recipe.steer import Refill, Steer, SteerText, values_in
from magpie.steps.base import seeds
from magpie.steps.instruct.dealing import Choice, dealt
from magpie.steps.instruct.shares import ROOT_OF_76, entries_at, places


@dataclass(frozen=True, slots=True)
class Steered:
    """What one row is steered by. `id` is such as "exercise;domain=graphs"; `language` is the id of that variable."""

    id: str
    prompt: str
    language: str | None


def steered(steer: Steer, run_seed: int, index: np.ndarray[Any, Any]) -> list[Steered | None]:
    """What each row is steered by, from its position and, unless all is crossed, the run's seed; None for no prompt."""
    index = np.asarray(index, np.int64)
    if not steer.prompts:
        return [None] * len(index)
    bare = _unsteered(steer, index)
    # Rows without a prompt take no turn from the others.
    turns = index - np.floor(index * steer.unsteered).astype(np.int64)
    if steer.combine == "cycle":
        choices = dealt(steer, run_seed, turns)
    elif steer.combine == "cross":
        choices = _crossed(steer, turns)
    else:
        choices = _sampled(steer, run_seed, turns)
    # A shard has many more rows than there are choices: each is filled in once.
    filled = {choice: _filled(steer, choice) for choice in dict.fromkeys(choices)}
    chosen = [
        None if is_bare else filled[choice] for choice, is_bare in zip(choices, bare.tolist(), strict=True)
    ]
    for number, refill in enumerate(steer.refills):
        end = steer.refills[number + 1].start if number + 1 < len(steer.refills) else None
        at = [
            row
            for row, each in enumerate(index)
            if refill.start <= each and (end is None or each < end) and chosen[row] is not None
        ]
        if at and refill.shares:
            for row, steering in zip(at, _refilled(steer, refill, index[at]), strict=True):
                chosen[row] = steering
    return chosen


def _refilled(steer: Steer, refill: Refill, index: np.ndarray[Any, Any]) -> list[Steered]:
    """What the rows of a refill are steered by: its prompts in their shares, spread evenly over them."""
    known = prompts_by_id(steer, refill.shares)
    shares = [refill.shares[steer_id] for steer_id in known]
    each = list(known.values())
    return [each[entry] for entry in entries_at(shares, places(index, ROOT_OF_76))]


def _unsteered(steer: Steer, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows get no prompt: those at which the count of such rows, their share of the rows so far, grows by one."""
    return np.floor((index + 1) * steer.unsteered) > np.floor(index * steer.unsteered)


def prompts_by_id(steer: Steer, ids: Iterable[str]) -> dict[str, Steered]:
    """What stands behind each id of the column `steer_id`; ids that are not of this recipe are left out."""
    prompts = {prompt.id: number for number, prompt in enumerate(steer.prompts)}
    positions = {
        name: {value.id: position for position, value in enumerate(values)}
        for name, values in steer.variables.items()
    }
    steered_by = {}
    for steer_id in ids:
        number = prompts.get(steer_id.partition(";")[0])
        if number is None:
            continue
        values = values_in(steer_id)
        names = steer.variables_of(steer.prompts[number])
        if all(values.get(name) in positions[name] for name in names):
            choice = (number, *(positions[name][values[name]] for name in names))
            steered_by[steer_id] = _filled(steer, choice)
    return steered_by


def every_wording(steer: Steer) -> Iterator[tuple[str, str]]:
    """The id of a prompt and a text of it, until every prompt and every value of a variable has been in one."""
    for number, prompt in enumerate(steer.prompts):
        sizes = _sizes(steer, prompt)
        # The values advance together, the shorter lists starting again: as many texts as the longest list has values.
        # All combinations could be millions, and show nothing more about a single value.
        for step in range(max(sizes, default=1)):
            yield prompt.id, _filled(steer, (number, *(step % size for size in sizes))).prompt


def _crossed(steer: Steer, index: np.ndarray[Any, Any]) -> list[Choice]:
    """Every prompt with every value of its variables, in the product of their shares, spread evenly over the rows."""
    sizes = [_sizes(steer, prompt) for prompt in steer.prompts]
    shares = [prompt.share * _combination_shares(steer, prompt) for prompt in steer.prompts]
    # All combinations of all prompts stand in one list, those of the first prompt first: one draw decides about a
    # prompt and its values together. `first` is where the combinations of each prompt begin.
    first = np.cumsum([0, *map(prod, sizes)])
    combinations = np.array(entries_at(np.concatenate(shares), places(index, ROOT_OF_76)))
    prompts = np.searchsorted(first, combinations, side="right") - 1
    return [
        # A combination counts its values like the digits of a number: `unravel_index` takes it apart again.
        (prompt, *(int(value) for value in np.unravel_index(combination - first[prompt], sizes[prompt])))
        for prompt, combination in zip(prompts.tolist(), combinations.tolist(), strict=True)
    ]


def _sizes(steer: Steer, prompt: SteerText) -> tuple[int, ...]:
    """How many values each variable of the prompt has."""
    return tuple(len(steer.variables[name]) for name in steer.variables_of(prompt))


def _combination_shares(steer: Steer, prompt: SteerText) -> np.ndarray[Any, Any]:
    """The shares of all combinations of a prompt's values. They add up to 1; the last variable varies fastest."""
    shares = np.ones(1)
    for name in steer.variables_of(prompt):
        value_shares = np.array([value.share for value in steer.variables[name]])
        # Divided by their sum first: a prompt gets its own share, however many values and shares it is crossed with.
        shares = np.outer(shares, value_shares / value_shares.sum()).ravel()
    return shares


def _sampled(steer: Steer, run_seed: int, index: np.ndarray[Any, Any]) -> list[Choice]:
    """A prompt and each of its variables for each row, all drawn independently of each other."""

    def draw(purpose: str, texts: tuple[SteerText, ...]) -> list[int]:
        # A seed is uniform in [0, 2**31): divided, it is a place in the unit interval.
        return entries_at([text.share for text in texts], seeds(run_seed, purpose, index) / 2**31)

    names = [steer.variables_of(prompt) for prompt in steer.prompts]
    # One draw for each variable, whichever prompts have it: one prompt more in the recipe does not change these draws.
    values = {name: draw(f"steer/{name}", texts) for name, texts in steer.variables.items()}
    return [
        (prompt, *(values[name][row] for name in names[prompt]))
        for row, prompt in enumerate(draw("steer", steer.prompts))
    ]


def _filled(steer: Steer, choice: Choice) -> Steered:
    """The prompt of a choice with the values of the choice."""
    number, *positions = choice
    prompt = steer.prompts[number]
    names = steer.variables_of(prompt)
    values = {name: steer.variables[name][position] for name, position in zip(names, positions, strict=True)}
    return Steered(
        id=";".join([prompt.id, *(f"{name}={value.id}" for name, value in values.items())]),
        prompt=prompt.filled({name: value.text for name, value in values.items()}),
        language=values["language"].id if "language" in values else None,
    )
