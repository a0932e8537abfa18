"""Sense or noise: whether the texts of a sample read as messages that a user would send.

Whole is not sensible: headings, scraps of code and words in any order pass every check of form. So a small model
reads each text (`reference.py`). Words that stand in their order are likelier than the same words shuffled, and a
message is likelier behind the header of a user than at the beginning of a document. The bounds are measured on texts
of known kind: `python -m benchmarks.sense`, and docs/any-model.md for the table.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magpie.doctor.measures import Mean
from magpie.errors import ModelError
from magpie.figures.counts import commonest_words

if TYPE_CHECKING:
    import pyarrow as pa

    from magpie.doctor.reference import Read

ORDER = 2.0
"""The least that the order of the words must add to the mean logarithm of a token's probability."""

SPEAKER = 0.05
"""The least that the header of a user must add to it, beside the beginning of a document."""

READY = 0.75
"""The share of texts that must make sense in the sample of a model that is ready.

SmolLM2-135M-Instruct has 95 % behind its own template and 62 % behind Vicuna's; questions of people have 90 %.
"""

USABLE = 0.5
"""The share below which a sample is noise."""

FEWEST = 12
"""English texts: of fewer nothing is told."""

_ENGLISH = "en"
_WORDS = 5  # that are shown


@dataclass(frozen=True, slots=True)
class Sense:
    """What was read of a sample. `share` are the texts that make sense; `order` and `speaker` are medians.

    `ended` are the texts that the model ended itself, drawn without a stop at the line break; `answered` are those of
    its own answers that read as replies, and not as more of the text. None where not drawn. Both are shown, and decide
    nothing: a model may write good messages whose end only the line break tells. `words` are the
    commonest that say what the texts are about, each with the share of texts that hold it. Where `why_not` is set
    nothing was read, and it says why.
    """

    share: Mean
    order: float = 0.0
    speaker: float = 0.0
    ended: Mean | None = None
    why_not: str | None = None
    answered: Mean | None = None
    words: tuple[tuple[str, float], ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether as many texts make sense as a ready model writes; also where that could not be told."""
        return self.why_not is not None or self.share.value >= READY

    @property
    def is_usable(self) -> bool:
        """Whether at least the greater part of the texts makes sense; also where that could not be told."""
        return self.why_not is not None or self.share.value >= USABLE

    def to_json(self) -> dict[str, Any]:
        """The figures, as JSON can hold them."""
        if self.why_not is not None:
            return {"sense": None, "no_sense": self.why_not}
        return {
            "sense": self.share.to_json(),
            "order": round(self.order, 3),
            "speaker": round(self.speaker, 3),
            "ended": None if self.ended is None else self.ended.to_json(),
            "answered": None if self.answered is None else self.answered.to_json(),
            "words": [[word, round(share, 3)] for word, share in self.words],
        }


def makes_sense(read: Read) -> bool:
    """Whether a text reads as the message of a user."""
    return read.order >= ORDER and read.speaker >= SPEAKER


def read_sense(
    rows: pa.Table, *, ended: Mean | None = None, answers: Sequence[tuple[str, str]] = ()
) -> Sense:
    """Read the texts of a sample that are not rejected and in English, which the reference model knows.

    `answers` are pairs of such a text and what the model answered.
    """
    texts = texts_to_read(rows)
    if len(texts) < FEWEST:
        why = f"only {len(texts)} texts of the sample are whole and in English, which the small model reads"
        return Sense(Mean.share(0, 0), ended=ended, why_not=why)
    try:
        from magpie.doctor.reference import Reference

        reference = Reference()
        reads, gains = reference.read(texts), reference.reply_gains(answers)
    except ModelError as error:
        return Sense(Mean.share(0, 0), ended=ended, why_not=str(error))
    return Sense(
        Mean.share(sum(map(makes_sense, reads)), len(reads)),
        statistics.median(read.order for read in reads),
        statistics.median(read.speaker for read in reads),
        ended,
        answered=Mean.share(sum(gain > 0 for gain in gains), len(gains)) if gains else None,
        words=tuple(commonest_words(texts, _WORDS)),
    )


def texts_to_read(rows: pa.Table) -> list[str]:
    """The instructions that came through, in English as far as a language was told."""
    table = rows.select(
        [name for name in ("instruction", "rejected", "language") if name in rows.column_names]
    )
    return [
        row["instruction"]
        for row in table.to_pylist()
        if row["rejected"] is None and row["instruction"] and row.get("language") in {None, _ENGLISH}
    ]


def answers_to_read(rows: pa.Table) -> list[tuple[str, str]]:
    """The texts that would be read, each with the model's answer; those without one are left out."""
    if "response" not in rows.column_names:
        return []
    read = set(texts_to_read(rows))
    pairs = zip(rows["instruction"].to_pylist(), rows["response"].to_pylist(), strict=True)
    return [(text, answer) for text, answer in pairs if text in read and answer]


def ended_share(finish_reasons: Sequence[str]) -> Mean:
    """The share of texts that ended by a token of the model's."""
    return Mean.share(list(finish_reasons).count("stop"), len(finish_reasons))
