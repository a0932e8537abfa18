"""What ends a turn (end-of-turn tokens, the next turn's header, end of text), and the beginning-of-text token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from magpie.chat.reasoning import Reasoning
from magpie.chat.template import ChatTokenizer, TemplateTexts
from magpie.errors import ChatFormatError

_ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")
_ENDS_OF_ANSWER = ("<|return|>", "<|call|>")


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a turn: `ids` the user's, `answer_ids` the assistant's with its reasoning, `texts` either one's.

    `texts` are headers in plain text. If one of `leaks` is in a message, a header or a special token leaked into it.
    """

    ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    texts: tuple[str, ...]
    leaks: tuple[str, ...]


def find_stops(
    tokenizer: ChatTokenizer,
    texts: TemplateTexts,
    pieces: Sequence[tuple[int, ...]],
    reasoning: Reasoning | None,
) -> Stops:
    """What ends a turn in this format. `pieces` are the ids of the texts between turns."""
    control = tokenizer.special_tokens
    # Tokens that mark reasoning stand inside an answer, so they must not end it.
    marks = () if reasoning is None else tuple(text for text in control if reasoning.is_marked_by(text))
    has_channels = reasoning is not None and reasoning.has_channels
    inside_answers = set() if has_channels else {control[text] for text in marks}
    special = set(control.values()) - inside_answers
    # The first two special tokens of a piece: the end of one turn, and the beginning of the next header. A model that
    # leaves the first out is stopped by the second.
    ids = {token for piece in pieces for token in [token for token in piece if token in special][:2]}
    ids |= {control[text] for text in _ENDS_OF_TEXT if text in control}
    if tokenizer.eos_id is not None:
        ids.add(tokenizer.eos_id)
    # What the model's own generation settings name: the tokenizer may name another end, such as that of a base model.
    ids |= set(getattr(tokenizer, "end_ids", ())) - inside_answers
    answer_ids = ids
    if reasoning is not None and has_channels:
        # Harmony: reasoning is a message of its own, with the same end as any other. A user's message has no channels,
        # so their tokens end it.
        channels = {control[text] for text in marks}
        ids = ids | channels
        answer_ids = ids | {control[text] for text in _ENDS_OF_ANSWER if text in control}
        # The model itself writes the channel's header, unless the template has written it already.
        if not texts.post_query.endswith(reasoning.answer_opener):
            answer_ids = answer_ids - channels
    words, headers = _plain_headers(tokenizer, texts, reasoning)
    return Stops(
        ids=tuple(sorted(ids)),
        answer_ids=tuple(sorted(answer_ids)),
        texts=headers,
        leaks=(
            *(text for text in control if text not in marks),
            *headers,
            *(f"\n{word}\n" for word in words),
        ),
    )


def find_bos(tokenizer: ChatTokenizer, pre: tuple[int, ...], later: tuple[int, ...]) -> int | None:
    """The beginning-of-text id, which must be the first token and come once; None where prompts have none.

    `pre` are the ids of the pre-query template, `later` those of the texts between turns. Raises ChatFormatError.
    """
    bos = tokenizer.bos_id
    if bos is None or bos not in pre:
        return None
    # A token that begins every turn, such as SmolLM2's <|im_start|>, is a header. Two of them at the beginning are a
    # BOS too many, whatever comes later.
    opens_turns = bos in later and pre[:2] != (bos, bos)
    if opens_turns:
        return None
    if pre.count(bos) != 1 or pre[0] != bos:
        raise ChatFormatError(
            f"the chat template writes the beginning-of-text token {pre.count(bos)} times, or not at the beginning; "
            "correct the model's template, or name one of templates/chat in `chat_template`"
        )
    return bos


def _plain_headers(
    tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The plain-text lines of headers: those of a single word ("assistant"), and the others ("### Response:")."""
    # Between special tokens and reasoning marks; the longest first, since one may be the beginning of another.
    marks = set(tokenizer.special_tokens)
    if reasoning is not None:
        marks |= {reasoning.begin, reasoning.answer_opener}
    between = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
    lines = [
        line.strip()
        for text in (texts.post_query, texts.next_turn)
        for piece in (re.split(between, text) if between else [text])
        for line in piece.splitlines()
        if re.search(r"\w", line)
    ]
    # A single word is no stop: "user" or "assistant" may be in any text.
    words = [line for line in lines if re.fullmatch(r"\w+", line)]
    return tuple(dict.fromkeys(words)), tuple(dict.fromkeys(line for line in lines if line not in words))
