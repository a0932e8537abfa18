"""Prompts and values dealt out in rounds, like cards: balanced in every stretch of rows, in an order drawn by seed.

The longest list leads: a round is as many rows as it has values, and each comes once in it. Beside a leading value the
values of every other list come in turn, from round to round, so that each meets each once in as many rounds as the
other list is long. Then the other list is shuffled anew. All of it follows from a row's position.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from magpie.recipe.steer import Steer
from magpie.steps.base import seeds

Choice = tuple[int, ...]
"""The number of a prompt, then for each of the prompt's variables the position of a value."""

_PROMPTS = "the prompts"  # no variable is named so: it holds a blank


def dealt(steer: Steer, run_seed: int, turns: np.ndarray[Any, Any]) -> list[Choice]:
    """The choice of each turn; `turns` are int64, not negative."""
    lists = {_PROMPTS: len(steer.prompts), **{name: len(values) for name, values in steer.variables.items()}}
    leading = max(lists, key=lambda name: (lists[name], name != _PROMPTS))
    order = Shuffles(run_seed)
    rounds, at = np.divmod(turns, lists[leading])
    led = [
        order.of(leading, number, lists[leading])[place]
        for number, place in zip(rounds.tolist(), at.tolist(), strict=True)
    ]
    dealt_out = {leading: led}
    for name, length in lists.items():
        if name != leading:
            dealt_out[name] = [
                order.beside(name, length, number, led=(lead, lists[leading]))
                for lead, number in zip(led, rounds.tolist(), strict=True)
            ]
    names = [steer.variables_of(prompt) for prompt in steer.prompts]
    return [
        (prompt, *(dealt_out[name][row] for name in names[prompt]))
        for row, prompt in enumerate(dealt_out[_PROMPTS])
    ]


class Shuffles:
    """Permutations that follow from the run's seed, the name of a list and a number. Each is worked out once."""

    def __init__(self, run_seed: int) -> None:
        @cache
        def of(name: str, number: int, length: int) -> tuple[int, ...]:
            drawn = seeds(run_seed, f"steer/cycle/{name}/{number}", np.arange(length))
            return tuple(np.argsort(drawn, kind="stable").tolist())

        self.of = of

    def beside(self, name: str, length: int, number: int, *, led: tuple[int, int]) -> int:
        """The value of a list that comes in round `number` beside a leading value; `led` is that, of how many."""
        block, turn = divmod(number, length)
        # Where a leading value begins in the other list is shuffled too, so that the values of one round are balanced.
        begins = self.of(f"{name}/beside", block, led[1])[led[0]]
        return self.of(name, block, length)[(begins + turn) % length]
