"""How many rows are asked for next, by what was kept of those so far."""

from __future__ import annotations

from typing import Any

import pytest
from builds import small_recipe

from magpie.errors import RecipeError
from magpie.plan.until import Kept, Next, first_rows_of, is_reached, next_rows, short_cells, with_next
from magpie.recipe import Recipe

STEER = {
    "prompts": {"user": "A user who writes {language} about {topic}."},
    "variables": {"language": ["en", "de"], "topic": ["cars", "tea"]},
}


def recipe(rows: int = 16, **until: Any) -> Recipe:
    return small_recipe(rows=rows, until={"kept": 100, **until}, steer=STEER)


def steered(topic: str, language: str) -> str:
    return f"user;language={language};topic={topic}"


def test_a_build_begins_with_so_few_rows_that_none_is_too_many() -> None:
    assert first_rows_of(recipe(), None).rows == 112  # 7 shards of 16
    assert first_rows_of(recipe(most=40), None).rows == 40
    assert first_rows_of(recipe(), {"rows": 400}).rows == 400
    assert first_rows_of(recipe(by=["language"]), None).rows == 16
    assert first_rows_of(small_recipe(), {"rows": 400}).rows == 96


def test_rows_are_asked_for_by_the_measured_share_until_enough_are_kept() -> None:
    assert next_rows(recipe(), Kept(112, 100)) is None
    step = next_rows(recipe(), Kept(112, 56))
    assert step is not None and step.shares is None
    # 44 at a share that may be as high as 0.6: 70 rows, in whole shards.
    assert step.rows == 112 + 64
    assert next_rows(recipe(), Kept(180, 99)) == Next(192 + 16)  # a shard that is not full is filled first
    assert next_rows(recipe(most=200), Kept(180, 99)) == Next(200)
    assert next_rows(recipe(most=200), Kept(200, 99)) is None
    assert next_rows(recipe(), Kept(112, 0)) is not None


def test_short_cells_are_fed_by_the_prompts_that_lead_there() -> None:
    cells = recipe(by=["language", "topic"])
    assert cells.until is not None
    assert cells.until.targets(cells.steer) == {
        (language, topic): 25 for language in ("en", "de") for topic in ("cars", "tea")
    }
    by_choice = {
        steered("cars", "en"): (40, {("en", "cars"): 30}),
        steered("tea", "en"): (40, {("en", "tea"): 5, ("en", "cars"): 2}),
        steered("cars", "de"): (40, {("de", "cars"): 30}),
        steered("tea", "de"): (40, {("de", "tea"): 20}),
    }
    kept = Kept(
        160, 87, {("en", "cars"): 32, ("en", "tea"): 5, ("de", "cars"): 30, ("de", "tea"): 20}, by_choice
    )
    assert short_cells(cells, kept) == {("en", "tea"): 20, ("de", "tea"): 5}
    step = next_rows(cells, kept)
    assert step is not None and step.shares is not None
    assert set(step.shares) == {steered("tea", "en"), steered("tea", "de")}
    assert step.shares[steered("tea", "en")] > 0.9
    assert 160 + 48 <= step.rows <= 160 + 160  # at shares that may be higher than measured
    grown = with_next(cells.model_copy(update={"rows": 160}), step)
    assert grown.steer is not None
    (refill,) = grown.steer.refills
    assert (refill.start, refill.shares, grown.rows) == (160, step.shares, step.rows)


def test_a_prompt_that_was_not_tried_is_known_by_its_values() -> None:
    cells = recipe(by=["language", "topic"])
    by_choice = {steered("cars", language): (24, {(language, "cars"): 20}) for language in ("en", "de")}
    step = next_rows(cells, Kept(48, 40, {("en", "cars"): 20, ("de", "cars"): 20}, by_choice))
    assert step is not None and step.shares is not None
    assert step.shares[steered("tea", "en")] == step.shares[steered("tea", "de")] > 0.3


def test_a_cell_to_which_nothing_leads_is_looked_for_everywhere() -> None:
    cells = recipe(by=["topic"], cells=[{"of": ["music"], "count": 5}])
    kept = Kept(32, 100, {("tea",): 100}, {steered("tea", "en"): (32, {("tea",): 100})})
    assert not is_reached(cells, kept)
    assert next_rows(cells, kept) == Next(64)
    assert next_rows(cells, Kept(1000, 100, {("tea",): 100}, {})) is None


@pytest.mark.parametrize(
    ("until", "why"),
    [
        ({"kept": 10, "by": ["no_such"]}, "no variable of `steer`"),
        (
            {"kept": 10, "by": ["topic"], "cells": [{"of": ["a", "b"], "count": 1}]},
            "2 values, and `by` has 1",
        ),
        ({"kept": 10, "by": ["topic"], "cells": [{"of": ["a"]}]}, "either a `share` or a `count`"),
        ({"kept": 10, "by": ["topic"], "cells": [{"of": ["a"], "count": 3}] * 2}, "same values"),
        ({"kept": 10, "cells": [{"of": ["a"], "count": 3}]}, "need `by`"),
        ({"kept": 10, "by": ["topic"], "cells": [{"of": ["a"], "count": 30}]}, "more than `kept`"),
    ],
)
def test_what_cannot_be_counted_is_refused(until: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        small_recipe(until=until, steer=STEER)
