"""Finished conversations as a model that judges them reads them: the whole, in the words of its own chat template.

Reward models and guards are shown what was said; nothing is taken apart, so their templates need not be such as a
`ChatFormat` can be derived from. A guard's template puts instructions of its own around the conversation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from magpie.chat.format import speaking
from magpie.chat.template import ChatTokenizer
from magpie.chat.tokenizer import Message
from magpie.errors import ChatFormatError
from magpie.recipe import Model

_ROLES = ("user", "assistant")
_MARKS = ("MagpieAsksXq", "ModelRepliesZv")


@dataclass(frozen=True, slots=True)
class Transcript:
    """How one model is shown a conversation. Make one with `derive` or `from_model`.

    `in_parts` says that the template wants a message's content as a list of parts, as those of models with eyes do.
    """

    source: str
    in_parts: bool
    tokenizer: ChatTokenizer = field(compare=False, repr=False)
    _special: re.Pattern[str] = field(compare=False, repr=False)

    @classmethod
    def derive(cls, tokenizer: ChatTokenizer, *, source: str = "tokenizer") -> Transcript:
        """The transcript of the tokenizer's own chat template, checked: it holds every message, in order.

        Raises ChatFormatError where it does not.
        """
        longest_first = sorted(filter(None, tokenizer.special_tokens), key=len, reverse=True)
        special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        failure: ChatFormatError | None = None
        for in_parts in (False, True):
            transcript = cls(source, in_parts, tokenizer, special)
            try:
                if transcript._shows(_MARKS[:1]) and transcript._shows(_MARKS):
                    return transcript
            except ChatFormatError as error:
                failure = failure or error
        raise failure or ChatFormatError(
            "the chat template leaves out what was said, so the model would judge nothing; "
            "name one of templates/chat in the model's `chat_template`, or another model"
        )

    @classmethod
    def from_model(cls, model: str | Model) -> Transcript:
        """The transcript of a model, given as a recipe's model or its name. Only the tokenizer is fetched.

        Raises ModelError when the model is not there, ChatFormatError when its template cannot be used.
        """
        tokenizer, source, _ = speaking(Model(model=model) if isinstance(model, str) else model)
        return cls.derive(tokenizer, source=source)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every special token: a verdict is plain text, and ends before the first of them."""
        return tuple(sorted(set(self.tokenizer.special_tokens.values())))

    def ids(self, turns: Sequence[str], *, verdict: bool = False) -> list[int]:
        """Token ids of a conversation. `turns` are user, assistant, user, and so on.

        `verdict` adds the header of the model's own verdict, where the template knows one. Special tokens of the model
        that stand in a message are blanked: the message was written by a model and may be hostile, and a forged header
        could hold the verdict. Raises ChatFormatError when the template refuses the conversation.
        """
        return self.tokenizer.encode(self._text([self._special.sub(" ", turn) for turn in turns], verdict))

    def identity(self) -> str:
        """A digest of all that shapes the conversations, for fingerprints."""
        shown = [self.ids(_MARKS[:count], verdict=verdict) for count in (1, 2) for verdict in (False, True)]
        shaped: list[Any] = [self.source, self.in_parts, shown, self.stop_ids, self._special.pattern]
        return hashlib.blake2b(json.dumps(shaped).encode(), digest_size=16).hexdigest()

    def _text(self, turns: Sequence[str], verdict: bool) -> str:
        messages = [
            {"role": _ROLES[at % 2], "content": [{"type": "text", "text": turn}] if self.in_parts else turn}
            for at, turn in enumerate(turns)
        ]
        return self.tokenizer.render(cast("list[Message]", messages), add_generation_prompt=verdict)

    def _shows(self, turns: Sequence[str]) -> bool:
        """Whether the template writes each of the messages, as text and in order."""
        text = self._text(turns, False)
        as_it_is = self.in_parts and "'type'" in text  # the list itself, written out
        return not as_it_is and re.search(".*".join(turns), text, re.DOTALL) is not None
