"""A model's chat format as token ids: what comes before, between and after the turns, and what ends a turn.

`template.py` reads the texts from the tokenizer's chat template; here they are encoded, checked again and joined into
prompts. A prompt is the whole conversation's text encoded at once, so its ids are those of the template also where two
pieces meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from magpie.chat.loading import load_tokenizer
from magpie.chat.reasoning import THINK_TAGS, Reasoning, find_reasoning
from magpie.chat.seams import choose_anchor, encode_inside
from magpie.chat.spelling import check_size, check_spelling
from magpie.chat.stops import Stops, find_bos, find_stops
from magpie.chat.template import ChatTokenizer, Opening, TemplateTexts, read_texts, system_opening
from magpie.chat.tokenizer import ModelTokenizer
from magpie.chat.warnings import warnings_of
from magpie.errors import ChatFormatError
from magpie.models import ModelFiles
from magpie.recipe import Model

_OPENINGS_CACHED = 1000


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one model's conversations are written, as token ids. Make one with `derive` or `from_model`.

    `source` is "tokenizer" or the name of a file of templates/chat. `bos_id` is the token that every prompt begins with
    and holds once; None where there is none. `reasoning` is how the model marks its reasoning, None where that is not
    known. `anchor` is put before a piece while it is encoded (see `seams.py`).
    """

    source: str
    texts: TemplateTexts
    pre_query_ids: tuple[int, ...]
    post_query_ids: tuple[int, ...]
    past_post_query_ids: tuple[int, ...]
    next_turn_ids: tuple[int, ...]
    stops: Stops
    bos_id: int | None
    reasoning: Reasoning | None
    warnings: tuple[str, ...]
    anchor: str
    tokenizer: ChatTokenizer = field(compare=False, repr=False)
    _openings: dict[str, Opening] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def derive(
        cls,
        tokenizer: ChatTokenizer,
        *,
        source: str = "tokenizer",
        notes: Sequence[str] = (),
        thinking: bool = True,
    ) -> ChatFormat:
        """The format of the tokenizer's own chat template, checked. Raises ChatFormatError that says why not.

        `notes` are put before the format's own warnings. With `thinking` false, the assistant's header is one after
        which the model does not reason, if the template has one.
        """
        own = tokenizer if isinstance(tokenizer, ModelTokenizer) else None
        # A template's source may name marks that are not rendered here, and a file of templates/chat has no source.
        rendered = tokenizer.render([{"role": "user", "content": "?"}], add_generation_prompt=True)
        reasoning = find_reasoning(((own and own.template) or "") + rendered, tokenizer.special_tokens)
        texts = read_texts(tokenizer, reasoning)
        warnings = [*notes, *check_spelling(tokenizer)]
        if not thinking and reasoning is not None:
            switched = own is not None and bool(own.switches)
            texts, thinking_warnings = _without_thinking(texts, reasoning, switched=switched)
            warnings += thinking_warnings
        warnings += warnings_of(texts, reasoning)
        # The pieces are encoded as they are in the middle of a text; the pre-query template is at its beginning.
        anchor, seamless = choose_anchor(tokenizer, texts)
        pre = tuple(tokenizer.encode(texts.pre_query))
        post, past, between = (
            tuple(encode_inside(tokenizer, text, anchor))
            for text in (texts.post_query, texts.past_post_query, texts.next_turn)
        )
        # All headers count: a past answer's may end in another token than a new one's.
        stops = find_stops(tokenizer, texts, (post, past, between), reasoning)
        check_size(tokenizer, (*pre, *post, *past, *between))
        if not seamless:
            warnings.append(
                "token ids at the seams of turns differ from those of the whole text encoded at once"
            )
        if not stops.ids:
            warnings.append("no token ends a turn; only length and text stops end a completion")
        return cls(
            source=source,
            texts=texts,
            pre_query_ids=pre,
            post_query_ids=post,
            past_post_query_ids=past,
            next_turn_ids=between,
            stops=stops,
            bos_id=find_bos(tokenizer, pre, (*past, *between)),
            reasoning=reasoning,
            warnings=tuple(warnings),
            anchor=anchor,
            tokenizer=tokenizer,
        )

    @classmethod
    def from_model(cls, model: str | Model, files: ModelFiles | None = None) -> ChatFormat:
        """The format of a model, given as a recipe's model or its name: hub id, folder or embedded model.

        Only the tokenizer is fetched, unless its `files` are given. The model's `chat_template`, where set, is used in
        place of the tokenizer's own: a file of templates/chat or a path to one, or else one of the tokenizer's own by
        its name. Raises ModelError when the model is not there, ChatFormatError when its template cannot be used.
        """
        model = Model(model=model) if isinstance(model, str) else model
        thinking = model.thinking != "off"
        tokenizer, source, notes = load_tokenizer(model, files)
        return cls.derive(tokenizer, source=source, notes=notes, thinking=thinking)

    @property
    def pre_query(self) -> str:
        """The text before the user's message, beginning-of-text token and default system prompt included."""
        return self.texts.pre_query

    @property
    def post_query(self) -> str:
        """The text between the user's message and the assistant's."""
        return self.texts.post_query

    @property
    def next_turn(self) -> str:
        """The text between the assistant's message and the user's next one."""
        return self.texts.next_turn

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends the user's turn: end of turn, end of text and the next header, where they are special tokens."""
        return self.stops.ids

    @property
    def answer_stop_ids(self) -> tuple[int, ...]:
        """What ends the assistant's turn as a whole: not the tokens that end only its reasoning."""
        return self.stops.answer_ids

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """What ends a turn where headers are plain text."""
        return self.stops.texts

    @property
    def leaks(self) -> tuple[str, ...]:
        """Texts which, in a message, mean that a header or a special token leaked. They hold no marks of reasoning."""
        return self.stops.leaks

    def without_end(self, text: str) -> str:
        """The text without the tokens that end a turn, where a server left them at its end; else as it is.

        Inside a text they stay, and are leaks.
        """
        ends = self.end_texts
        rest = text
        while (bare := rest.rstrip()).endswith(ends):
            rest = next(bare.removesuffix(end) for end in ends if bare.endswith(end))
        return rest

    @property
    def end_texts(self) -> tuple[str, ...]:
        """The texts of the tokens that end a turn."""
        ids = {*self.stop_ids, *self.answer_stop_ids}
        # Of these, the ones that no message may hold.
        return tuple(
            text for text, at in self.tokenizer.special_tokens.items() if at in ids and text in self.leaks
        )

    def has_leak(self, text: str) -> bool:
        """Whether a header or a special token stands in a message."""
        return any(leak in text for leak in self.leaks)

    def prompt(self, turns: Sequence[str], *, system: str | None = None) -> list[int]:
        """Token ids after which the model writes the next turn. `turns` are user, assistant, user, and so on.

        No turns: the model writes the user's first message. An odd number: the assistant's answer. An even number: the
        user's next message. `system` None keeps the template's default. Raises ChatFormatError where the template takes
        no system prompt.
        """
        # Without the spaces that end the last header: the message's first token holds them.
        # The first step asks for this prompt once a row.
        if not turns and system is None:
            return list(self.pre_query_ids)
        # Encoded as one text, and not joined from the pieces' ids: tokens may cross the seams between turns.
        opening = None if system is None else self._opening(system)
        return self.tokenizer.encode(self.texts.conversation(turns, opening))

    def split_reasoning(self, text: str) -> tuple[str | None, str]:
        """The reasoning in the assistant's text, None where there is none, and the answer after it, both stripped.

        After reasoning that never ends the answer is empty.
        """
        # A past answer's header may have more in it than a new one's. A model may write that part itself: it is no
        # part of the answer.
        texts, marks = self.texts, self.reasoning or THINK_TAGS
        continues = texts.past_post_query.startswith(texts.post_query)
        opener = texts.past_post_query.removeprefix(texts.post_query) if continues else ""
        return marks.split(text, opened=marks.is_open(texts.post_query), opener=opener)

    def first_tokens(self, openings: Sequence[str]) -> tuple[int, ...]:
        """The first token ids of messages that begin with one of these texts, with a space before it or without."""
        # Not those of white space: they begin other messages, too.
        encoded = [self.encode(space + text.strip()) for text in openings for space in ("", " ")]
        return tuple(sorted({ids[0] for ids in encoded if ids and self.tokenizer.decode(ids[:1]).strip()}))

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as they are in the middle of a message."""
        return encode_inside(self.tokenizer, text, self.anchor)

    def identity(self) -> str:
        """A digest of everything that shapes prompts and stops, for fingerprints."""
        # The names of the dataclasses' fields are part of it: renaming one changes the fingerprints of runs.
        content: list[Any] = [
            self.source,
            asdict(self.texts),
            [self.pre_query_ids, self.post_query_ids, self.past_post_query_ids, self.next_turn_ids],
            [asdict(self.stops), self.bos_id, self.anchor, self.reasoning and asdict(self.reasoning)],
            self.texts.system_problem or self.tokenizer.encode(self._opening("system").text),
        ]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The format for people and scripts, ready for JSON.

        `thinking` is None where nothing is known of the model's reasoning. `options` are the names that
        `chat_template_kwargs` can set.
        """
        own = self.tokenizer if isinstance(self.tokenizer, ModelTokenizer) else None
        thinking = self.reasoning and {
            **asdict(self.reasoning),
            "opened_by_header": self.reasoning.is_open(self.post_query),
            "dropped_from_history": bool(self.texts.reply_trim.cut),
            "switches": list(own.switches) if own else [],
        }
        return {
            "pre_query": self.pre_query,
            "post_query": self.post_query,
            "next_turn": self.next_turn,
            "pre_query_ids": list(self.pre_query_ids),
            "post_query_ids": list(self.post_query_ids),
            "next_turn_ids": list(self.next_turn_ids),
            "stop_ids": list(self.stop_ids),
            "answer_stop_ids": list(self.answer_stop_ids),
            "stop_texts": list(self.stop_texts),
            "bos_id": self.bos_id,
            "system_prompt": self.texts.system_problem or "taken",
            "thinking": thinking,
            "options": list(own.options) if own else [],
            "warnings": list(self.warnings),
            "source": self.source,
        }

    def _opening(self, system: str) -> Opening:
        """How conversations begin with a system prompt, cached."""
        # Reading it renders the template. A build may have a system prompt a row, so the cache is bounded.
        opening = self._openings.get(system)
        if opening is None:
            if len(self._openings) >= _OPENINGS_CACHED:
                self._openings.clear()
            opening = self._openings[system] = system_opening(self.tokenizer, self.texts, system)
        return opening


def _without_thinking(
    texts: TemplateTexts, reasoning: Reasoning, *, switched: bool
) -> tuple[TemplateTexts, list[str]]:
    """The texts with a header after which the model does not reason, and a warning where there is none.

    `switched`: the template has a switch, which is off already. Raises ChatFormatError where the header begins the
    reasoning itself.
    """
    past, header = texts.past_post_query, texts.post_query
    is_open = reasoning.is_open(header)
    # The header holds an empty thinking block: nothing is left to do.
    if not is_open and reasoning.end in header:
        return texts, []
    # Past answers have a longer header, which passes the place where reasoning would be: it is used for new ones, too.
    if past != header and past.startswith(header) and not reasoning.is_open(past):
        return replace(texts, post_query=past), []
    if is_open:
        raise ChatFormatError(
            "`thinking: off` is impossible: the chat template opens a thinking block in the assistant's header and has "
            "no variable to leave it out; set `thinking: strip`, which keeps the reasoning in a column of its own"
        )
    if switched:
        return texts, []
    return texts, [
        "nothing in the chat template tells the model not to reason; its reasoning is kept out of the answers"
    ]
