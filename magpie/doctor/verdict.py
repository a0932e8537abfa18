"""From rates to a verdict, and to recipe lines worth a try.

`ready` needs `READY`, 80 % of rows valid: a build then pays for 1.25 instructions to keep one, and less is worth a
change of settings. Below `USABLE`, 40 %, it pays for more than 2.5, before deduplication and the filter take theirs;
the model does not know its format, or does not write instructions. A problem is named from `NAMED`, 5 % of rows, up:
one of 64 draws is 1.6 %, so that fewer than four are noise. `LEAKED` is the same 5 %, and keeps a model from being
ready by itself, since what leaks is a sign that the format is not the model's, and such rows look whole to a reader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from magpie.chat.families import FamilyTokenizer, fitting, load_template
from magpie.chat.template import read_texts
from magpie.doctor.measures import PROBLEMS, Sample

if TYPE_CHECKING:
    from magpie.chat import ChatFormat

READY = 0.80
USABLE = 0.40
NAMED = 0.05
LEAKED = 0.05

_MOST_LEAKED = 0.30
_MOST_EMPTY = 0.50
"""Above either of these two, cooler draws do not help: the format is not the model's."""

_CHANCE = 0.05


def is_ready(sample: Sample) -> bool:
    """Whether a build can begin with the settings that the sample was made with."""
    return sample.rates["valid"] >= READY and sample.rates["leaked"] <= LEAKED


def is_usable(sample: Sample) -> bool:
    """Whether enough is valid for a build to be worth its cost."""
    return sample.rates["valid"] >= USABLE


def is_troubled(sample: Sample) -> bool:
    """Whether a problem is worth naming, in a sample that may be good enough all the same."""
    return any(sample.rates[name] >= NAMED for name in PROBLEMS)


def judge(sample: Sample, chat: ChatFormat) -> tuple[str, tuple[str, ...]]:
    """The verdict on a sample, and the recipe lines it asks for. Nothing is tried here."""
    if is_ready(sample):
        return f"ready: {whole(sample)}", ()
    changes, more = propose(sample, chat)
    advice = "; ".join([*changes, *more])
    if is_usable(sample):
        return f"usable with: {advice} ({troubles(sample)})", changes
    found = f"not usable: only {whole(sample)} ({troubles(sample)})"
    return f"{found}; try {advice}; or take another instruction-tuned model", changes


def whole(sample: Sample) -> str:
    """In words, how many are valid."""
    return f"{sample.rates['valid']:.0%} of {sample.rows} instructions are whole"


def troubles(sample: Sample) -> str:
    """In words, what is wrong, the worst first."""
    return ", ".join(f"{sample.rates[name]:.0%} {name}" for name in _named(sample.rates))


def propose(sample: Sample, chat: ChatFormat) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Recipe lines against the problems of a sample, one for a setting, and advice that is no recipe line."""
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
    """Whether more rows became valid than ceased to be, by more than chance does one time in twenty.

    Row by row, since the rows of two samples share their seeds: the sign test, one-sided. From 64 of 64 nothing helps.
    """
    pairs = list(zip(before.whole, after.whole, strict=True))
    better, worse = pairs.count((False, True)), pairs.count((True, False))
    changed = better + worse
    as_likely = sum(math.comb(changed, count) for count in range(better, changed + 1))
    return better > worse and as_likely / 2**changed < _CHANCE


def _other_template(chat: ChatFormat) -> str | None:
    """The shipped template likeliest to be the model's, of those that write turns otherwise than `chat` does."""
    for name in fitting(chat.tokenizer):
        if read_texts(FamilyTokenizer(chat.tokenizer, load_template(name))).next_turn != chat.next_turn:
            return name
    return None


def _named(rates: Mapping[str, float]) -> Sequence[str]:
    """The problems worth naming, the worst first; the worst one where none is."""
    named = [name for name in PROBLEMS if rates[name] >= NAMED]
    return sorted(named or PROBLEMS, key=lambda name: -rates[name])[: len(named) or 1]


def _seen(languages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(languages.items())[:4])
