"""Shuffled words: a judge that likes them as well has no say."""

from __future__ import annotations

import asyncio

from samples import recipe_for, scripted

from magpie.doctor.judge_check import grades, shuffle_test, shuffle_words
from magpie.doctor.sampling import Sampler
from magpie.recipe import Tag
from magpie.steps.base.scales import QUALITIES

MODEL = scripted(repeat_rate=0.2, cut_rate=0.1)


def test_words_are_shuffled_and_all_there() -> None:
    text = "How do I cook rice without a lid?"
    mixed = shuffle_words(text, 3)
    assert mixed != text and sorted(mixed.split()) == sorted(text.split())
    assert sorted(shuffle_words("怎么煮米饭", 3)) == sorted("怎么煮米饭")
    assert shuffle_words(text, 3) == mixed and shuffle_words("", 1) == ""


def test_labels_are_places_on_the_scale() -> None:
    assert grades(["very poor", None, "excellent", "average"], QUALITIES) == [1, 5, 3]


def test_the_shuffled_are_the_instructions_that_were_judged() -> None:
    recipe = recipe_for(MODEL).model_copy(update={"tag": Tag(tags=("quality", "difficulty"))})

    async def tested() -> tuple[int, int]:
        async with Sampler(lambda *_: None) as sampler:
            rows = await sampler.judge(recipe, (await sampler.write(recipe, 30)).rows)
            plain, mixed = await shuffle_test(sampler, recipe, rows)
            return plain.rows, mixed.rows

    plain, mixed = asyncio.run(tested())
    assert 20 <= plain <= 30 and 0 < mixed <= plain
