"""From the rates of a sample to a verdict, and to recipe lines that are worth a try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from magpie.chat.families import FamilyTokenizer, fitting, load_template
from magpie.chat.template import read_texts
from magpie.doctor.measures import PROBLEMS, Sample

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

# At 80 % valid rows, a build generates 1.25 instructions for each valid one. Below that it is worth trying other
# settings.
READY = 0.80
# Below 40 %, it generates more than 2.5, and deduplication and the filter still take rows from those. The model does
# not know this chat format, or does not write instructions.
USABLE = 0.40
# One of 64 rows is 1.6 %, so fewer than four rows with a problem say little. Such problems are not named.
NAMED = 0.05
# A leak is a sign that the chat format is not the model's. Rows that leak look good to a reader, so a model that leaks
# this often is not ready, whatever the rest of its rows is like.
LEAKED = 0.05

ONLY_FORM = "; how good they are, only reading them tells"
"""The end of a verdict that a reader might take for praise of the texts."""

# Above either of these the chat format is not the model's, and a lower temperature does not help.
_MOST_LEAKED = 0.30
_MOST_EMPTY = 0.50

# How often chance alone may look like an improvement: the usual level of a significance test.
_CHANCE = 0.05


def is_ready(sample: Sample) -> bool:
    """Whether a build can begin with the settings that the sample was made with."""
    return sample.rates["valid"] >= READY and sample.rates["leaked"] <= LEAKED


def is_usable(sample: Sample) -> bool:
    """Whether enough is valid for a build to be worth its cost."""
    return sample.rates["valid"] >= USABLE


def has_problems(sample: Sample) -> bool:
    """Whether any problem is frequent enough to be named. A ready model may have one."""
    return any(sample.rates[name] >= NAMED for name in PROBLEMS)


def judge(sample: Sample, chat: ChatFormat) -> tuple[str, tuple[str, ...]]:
    """The verdict on a sample, and the recipe lines it asks for. Nothing is tried here."""
    if is_ready(sample):
        return f"ready: {valid_share(sample)}{ONLY_FORM}", ()
    changes, more = propose(sample, chat)
    advice = "; ".join([*changes, *more])
    if is_usable(sample):
        return f"usable with: {advice} ({problem_shares(sample)})", changes
    verdict = f"not usable: only {valid_share(sample)} ({problem_shares(sample)})"
    return f"{verdict}; try {advice}; or take another instruction-tuned model", changes


def valid_share(sample: Sample) -> str:
    """In words, how many rows are valid."""
    return f"{sample.rates['valid']:.0%} of {sample.rows} instructions are whole"


def problem_shares(sample: Sample) -> str:
    """In words, how many rows have which problem, the most frequent problem first."""
    return ", ".join(f"{sample.rates[name]:.0%} {name}" for name in _named(sample.rates))


def propose(sample: Sample, chat: ChatFormat) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Recipe lines that may help against the problems of a sample, one for each setting; and advice in words."""
    rates, named = sample.rates, _named(sample.rates)
    lines: dict[str, str] = {}
    more = []
    if rates["leaked"] > _MOST_LEAKED or rates["empty"] > _MOST_EMPTY:
        other = _other_template(chat)
        if other is not None:
            lines["models.generator.chat_template"] = other
        else:
            more.append("the template the model was trained with, as models.generator.chat_template")
    elif "leaked" in named:
        lines["instruct.mix.0.temperature"] = "0.8"
    if "empty" in named:
        lines["instruct.stop_at_newline"] = "false"
    if "cut" in named:
        lines["instruct.max_tokens"] = "1024"
    if "repeated" in named or "looping" in named:
        lines.setdefault("instruct.mix.0.temperature", "1.2")
    if "language" in named:
        more.append(f"the languages that are wanted, as language.keep (seen: {_seen(sample.languages)})")
    if "other" in named:
        more.append("the settings of `clean`, after a look at the examples it rejects")
    return tuple(f"{path}: {value}" for path, value in lines.items()), tuple(more)


def helped(before: Sample, after: Sample) -> bool:
    """Whether `after` has more valid rows than `before`, by more than chance explains: the one-sided sign test."""
    # The two samples share positions and seeds, so they are compared row by row. Rows that stayed as they were say
    # nothing; of the others, chance alone would make half of them better.
    pairs = list(zip(before.valid_rows, after.valid_rows, strict=True))
    better, worse = pairs.count((False, True)), pairs.count((True, False))
    changed = better + worse
    # In how many of the 2 ** changed equally likely outcomes so many rows, or more, are better.
    outcomes = sum(math.comb(changed, count) for count in range(better, changed + 1))
    return better > worse and outcomes / 2**changed < _CHANCE


def _other_template(chat: ChatFormat) -> str | None:
    """The shipped template that fits the tokenizer best and writes turns in another way than `chat`."""
    for name in fitting(chat.tokenizer):
        if read_texts(FamilyTokenizer(chat.tokenizer, load_template(name))).next_turn != chat.next_turn:
            return name
    return None


def _named(rates: Mapping[str, float]) -> Sequence[str]:
    """The problems that are frequent enough to be named, the most frequent first; where none is, that one alone."""
    named = [name for name in PROBLEMS if rates[name] >= NAMED]
    return sorted(named or PROBLEMS, key=lambda name: -rates[name])[: len(named) or 1]


def _seen(languages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(languages.items())[:4])
