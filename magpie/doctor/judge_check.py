"""What a judge's labels come to as figures, and whether the judge can tell anything at all.

A judge that finds the same instructions with their words shuffled as good as they were cannot tell good from bad: its
means are then a matter of chance, however small their errors.
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

_SHUFFLED = 64
"""How many instructions a judge is shown with their words shuffled."""


def grades(labels: Sequence[str | None], scale: Sequence[str]) -> list[int]:
    """The labels there are as 1 to 5, by their place on the scale."""
    return [scale.index(label) + 1 for label in labels if label is not None]


async def shuffle_test(sampler: Sampler, recipe: Recipe, judged: pa.Table) -> tuple[Mean, Mean]:
    """The judge's mean quality of some instructions, spread over the cells, as they are and with words shuffled."""
    at = [row for row in live(judged) if judged["input_quality"][row].as_py() is not None]
    at = at[:: max(1, len(at) // _SHUFFLED)][:_SHUFFLED]
    some = judged.take(pa.array(at, pa.int64()))
    texts = [
        shuffle_words(text, seed) for text, seed in zip(some["instruction"].to_pylist(), at, strict=True)
    ]
    bare = some.select(["id", "index", "rejected"]).append_column("instruction", pa.array(texts, pa.string()))
    assert recipe.tag is not None
    only = recipe.with_sections(tag=recipe.tag.model_copy(update={"tags": ("quality",)}))
    again = await sampler.judge(only, bare, what="judging shuffled words, to test the judge")
    plain, mixed = (grades(table["input_quality"].to_pylist(), QUALITIES) for table in (some, again))
    return Mean.of(plain), Mean.of(mixed)


def shuffle_words(text: str, seed: int) -> str:
    """The text with its words in another order; its characters, where it has fewer than four words."""
    pieces, glue = (text.split(), " ") if len(text.split()) > 3 else (list(text), "")
    return glue.join(random.Random(seed).sample(pieces, len(pieces)))
