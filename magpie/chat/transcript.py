"""Finished conversations as prompts for reward models and guards, rendered as a whole by the model's chat template.

Nothing is cut into pieces, so templates that no `ChatFormat` can be derived from will do: a guard's template, for
example, puts its own instructions around the conversation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from magpie.chat.loading import load_tokenizer
from magpie.chat.template import ChatTokenizer
from magpie.chat.tokenizer import Message
from magpie.errors import ChatFormatError
from magpie.models import ModelFiles
from magpie.recipe import Model

_ROLES = ("user", "assistant")
_MARKERS = ("MagpieAsksXq", "ModelRepliesZv")


@dataclass(frozen=True, slots=True)
class Transcript:
    """How one model reads a finished conversation. Make one with `derive` or `from_model`.

    `in_parts`: the template expects a message's content as a list of parts, as those of multimodal models do.
    """

    source: str
    in_parts: bool
    tokenizer: ChatTokenizer = field(compare=False, repr=False)
    _special: re.Pattern[str] = field(compare=False, repr=False)

    @classmethod
    def derive(cls, tokenizer: ChatTokenizer, *, source: str = "tokenizer") -> Transcript:
        """The transcript format of the tokenizer's own chat template.

        Raises ChatFormatError where the template does not write every message, in order.
        """
        # The longest first, since one token may be the beginning of another. `(?!)` matches nothing.
        longest_first = sorted(filter(None, tokenizer.special_tokens), key=len, reverse=True)
        special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Content as text first: some templates for parts take both. The first error is the one about text, which is
        # what most templates are for.
        failure: ChatFormatError | None = None
        for in_parts in (False, True):
            transcript = cls(source, in_parts, tokenizer, special)
            try:
                if transcript._writes(_MARKERS[:1]) and transcript._writes(_MARKERS):
                    return transcript
            except ChatFormatError as error:
                failure = failure or error
        raise failure or ChatFormatError(
            "the chat template leaves messages out, so the model would not read what it judges; "
            "name one of templates/chat in the model's `chat_template`, or another model"
        )

    @classmethod
    def from_model(cls, model: str | Model, files: ModelFiles | None = None) -> Transcript:
        """The transcript format of a model, given as a recipe's model or its name. Only the tokenizer is fetched.

        Raises ModelError when the model is not there, ChatFormatError when its template cannot be used.
        """
        tokenizer, source, _ = load_tokenizer(Model(model=model) if isinstance(model, str) else model, files)
        return cls.derive(tokenizer, source=source)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every special token: a verdict is plain text and ends before the first of them."""
        return tuple(sorted(set(self.tokenizer.special_tokens.values())))

    def ids(self, turns: Sequence[str], *, verdict: bool = False) -> list[int]:
        """Token ids of a conversation. `turns` are user, assistant, user, and so on.

        `verdict` adds the header of the model's own verdict, where the template has one. Special tokens in a message
        are replaced with spaces. Raises ChatFormatError when the template refuses the conversation.
        """
        # A message was written by a model and may be hostile: a special token in it could forge a header, and a verdict
        # after that.
        cleaned = [self._special.sub(" ", turn) for turn in turns]
        return self.tokenizer.encode(self._text(cleaned, verdict))

    def identity(self) -> str:
        """A digest of everything that shapes the prompts, for fingerprints."""
        examples = [
            self.ids(_MARKERS[:count], verdict=verdict) for count in (1, 2) for verdict in (False, True)
        ]
        content: list[Any] = [self.source, self.in_parts, examples, self.stop_ids, self._special.pattern]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def _text(self, turns: Sequence[str], verdict: bool) -> str:
        messages = [
            {"role": _ROLES[at % 2], "content": [{"type": "text", "text": turn}] if self.in_parts else turn}
            for at, turn in enumerate(turns)
        ]
        return self.tokenizer.render(cast("list[Message]", messages), add_generation_prompt=verdict)

    def _writes(self, turns: Sequence[str]) -> bool:
        """Whether the template writes each of the messages, as text and in order."""
        text = self._text(turns, False)
        # A template for plain text writes the list itself, in Python's notation.
        is_list = self.in_parts and "'type'" in text
        return not is_list and re.search(".*".join(turns), text, re.DOTALL) is not None
