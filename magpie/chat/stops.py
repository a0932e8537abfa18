"""What ends a turn: end-of-turn tokens, the headers of the next turn, end of text; and the beginning of text, once."""

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
    """What ends a turn. `ids` end the user's, `answer_ids` the assistant's, reasoning included.

    `texts` are headers that are plain text. A text of `leaks` inside a message means that a header or a special token
    leaked into it.
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
    """What ends a turn in this format. `pieces` are the ids of the texts that stand between turns.

    A piece's first two special tokens are the end of its turn and the opening of the next header.
    """
    control = tokenizer.special_tokens
    marks = () if reasoning is None else tuple(text for text in control if reasoning.is_marked_by(text))
    no_ends = set() if reasoning is not None and reasoning.has_channels else {control[text] for text in marks}
    special = set(control.values()) - no_ends
    ids = {at for piece in pieces for at in [at for at in piece if at in special][:2]}
    ids |= {control[text] for text in _ENDS_OF_TEXT if text in control}
    if tokenizer.eos_id is not None:
        ids.add(tokenizer.eos_id)
    answer_ids = ids
    if reasoning is not None and reasoning.has_channels:
        # Reasoning is a message of its own, which ends and opens as any other; the user's holds no channels.
        channels = {control[text] for text in marks}
        ids = ids | channels
        answer_ids = ids | {control[text] for text in _ENDS_OF_ANSWER if text in control}
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
    """The beginning-of-text id, checked to open the prompt and to be there once; None where prompts have none.

    A token that opens every turn as well, such as SmolLM2's <|im_start|>, is a header and may come again. `pre` are the
    ids of the pre-query template, `later` those of what stands between turns.
    """
    bos = tokenizer.bos_id
    if bos is None or bos not in pre:
        return None
    opens_turns = bos in later and pre[:2] != (bos, bos)
    if opens_turns:
        return None
    if pre.count(bos) != 1 or pre[0] != bos:
        raise ChatFormatError(
            f"the chat template writes the beginning-of-text token {pre.count(bos)} times, or not at the beginning; "
            "mend the model's template, or name one of templates/chat in `chat_template`"
        )
    return bos


def _plain_headers(
    tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines of the headers that are plain text: single words ("assistant"), and the rest ("### Response:")."""
    known = set(tokenizer.special_tokens)
    if reasoning is not None:
        known |= {reasoning.begin, reasoning.answer_opener}
    between = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    lines = [
        line.strip()
        for text in (texts.post_query, texts.next_turn)
        for piece in (re.split(between, text) if between else [text])
        for line in piece.splitlines()
        if re.search(r"\w", line)
    ]
    words = [line for line in lines if re.fullmatch(r"\w+", line)]
    return tuple(dict.fromkeys(words)), tuple(dict.fromkeys(line for line in lines if line not in words))
