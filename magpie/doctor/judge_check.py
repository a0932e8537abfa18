"""A judge's labels as grades, and a test whether the judge can tell good from bad.

The test shows the judge some instructions as they are, and again with their words shuffled. A judge that gives both the
same quality cannot tell good from bad. Its mean qualities then mean nothing, however small their errors.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from magpie.doctor.measures import Mean
from magpie.steps.base import live
from magpie.steps.base.scales import QUALITIES

if TYPE_CHECKING:
    from magpie.doctor.sampling import Sampler
    from magpie.recipe import Recipe

# How many instructions the judge is shown a second time. With 64, a difference of a third of a grade is significant.
_TESTED = 64


def grades(labels: Sequence[str | None], scale: Sequence[str]) -> list[int]:
    """The labels as grades from 1, by their position on the scale; rows without a label are left out."""
    return [scale.index(label) + 1 for label in labels if label is not None]


async def shuffle_test(sampler: Sampler, recipe: Recipe, judged: pa.Table) -> tuple[Mean, Mean]:
    """The judge's mean quality of some of the judged rows: as they are, and with their words shuffled."""
    graded = [row for row in live(judged) if judged["input_quality"][row].as_py() is not None]
    # Every k-th row: the rows of one cell follow one another, and so each cell has its part in the test.
    positions = graded[:: max(1, len(graded) // _TESTED)][:_TESTED]
    plain = judged.take(pa.array(positions, pa.int64()))
    texts = [
        shuffle_words(text, seed)
        for text, seed in zip(plain["instruction"].to_pylist(), positions, strict=True)
    ]
    rows = plain.select(["id", "index", "rejected"]).append_column(
        "instruction", pa.array(texts, pa.string())
    )
    assert recipe.tag is not None
    quality_only = recipe.with_sections(tag=recipe.tag.model_copy(update={"tags": ("quality",)}))
    shuffled = await sampler.judge(quality_only, rows, what="judging shuffled words, to test the judge")
    as_is, mixed = (grades(table["input_quality"].to_pylist(), QUALITIES) for table in (plain, shuffled))
    return Mean.of(as_is), Mean.of(mixed)


def shuffle_words(text: str, seed: int) -> str:
    """The text with its words in another order, or its characters, where it has fewer than four words."""
    # So few words can make sense in any order. Chinese and Japanese put no spaces between words.
    pieces, separator = (text.split(), " ") if len(text.split()) > 3 else (list(text), "")
    return separator.join(random.Random(seed).sample(pieces, len(pieces)))
