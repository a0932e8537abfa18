"""A model's chat format as token ids: what comes before, between and after the turns, and what stops a turn.

The texts are read from the tokenizer's own chat template by `template.py`; here they become ids, are checked again,
and are joined into prompts. A prompt holds the ids that the template's own text of the whole conversation has, seams
included; what is put together from pieces, such as a judge's question, is joined as ids, never as strings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from magpie import models, shipped
from magpie.chat.families import FamilyTokenizer, fitting, load_template
from magpie.chat.reasoning import THINK_TAGS, Reasoning, find_reasoning
from magpie.chat.seams import choose_anchor, encode_inside
from magpie.chat.stops import Stops, find_bos, find_stops
from magpie.chat.template import ChatTokenizer, Opening, TemplateTexts, read_texts, system_opening
from magpie.chat.tokenizer import ModelTokenizer
from magpie.errors import ChatFormatError
from magpie.recipe import Model

_HEADS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one model's conversations are written, as token ids. Make one with `derive` or `from_model`.

    `source` is "tokenizer" or the name of a file of templates/chat. `bos_id` is the token every prompt starts with, and
    holds once; None where the family has none. `reasoning` is how the model writes its thoughts, None where nothing is
    known of them. `anchor` is put before a piece while it is encoded and cut off again, for tokenizers that add a space
    to the beginning of a text.
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
    _heads: dict[str, Opening] = field(default_factory=dict, compare=False, repr=False)

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

        `notes` are put before the format's own warnings. Without `thinking`, the assistant's header is one after which
        the model does not reason, as far as the template knows one.
        """
        own = tokenizer if isinstance(tokenizer, ModelTokenizer) else None
        written = tokenizer.render([{"role": "user", "content": "?"}], add_generation_prompt=True)
        reasoning = find_reasoning(((own and own.template) or "") + written, tokenizer.special_tokens)
        texts = read_texts(tokenizer, reasoning)
        found = list(notes)
        if not thinking and reasoning is not None:
            switched = own is not None and bool(own.switches)
            texts, trouble = _without_thinking(texts, reasoning, switched=switched)
            found += trouble
        found += _warnings(texts, reasoning)
        anchor, seamless = choose_anchor(tokenizer, texts)
        pre = tuple(tokenizer.encode(texts.pre_query))
        post, past, between = (
            tuple(encode_inside(tokenizer, text, anchor))
            for text in (texts.post_query, texts.past_post_query, texts.next_turn)
        )
        stops = find_stops(tokenizer, texts, (post, past, between), reasoning)
        if not seamless:
            found.append(
                "token ids at the seams of turns differ from those of the whole text encoded at once"
            )
        if not stops.ids:
            found.append("no token ends a turn; only length and text stops end a completion")
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
            warnings=tuple(found),
            anchor=anchor,
            tokenizer=tokenizer,
        )

    @classmethod
    def from_model(cls, model: str | Model) -> ChatFormat:
        """The format of a model, given as a recipe's model or its name: hub id, folder or embedded model.

        Only the tokenizer is fetched. The model's `chat_template`, where set, is used in place of the tokenizer's own:
        a file of templates/chat or a path to one, or else one of the tokenizer's own by its name. Raises ModelError
        when the model is not there, ChatFormatError when its template cannot be used.
        """
        model = Model(model=model) if isinstance(model, str) else model
        thinking = model.thinking != "off"
        chosen, source, notes = speaking(model)
        return cls.derive(chosen, source=source, notes=notes, thinking=thinking)

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
        """What ends the assistant's turn, its reasoning included: not what only its reasoning ends with."""
        return self.stops.answer_ids

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """What ends a turn where headers are plain text."""
        return self.stops.texts

    @property
    def leaks(self) -> tuple[str, ...]:
        """Texts that, inside a message, mean that a header or a special token leaked. Reasoning's marks are none."""
        return self.stops.leaks

    def prompt(self, turns: Sequence[str], *, system: str | None = None) -> list[int]:
        """Token ids after which the model writes the next turn. `turns` are user, assistant, user, and so on.

        No turns: the user's first message is to be written. An odd number: the assistant answers. An even number: the
        user writes on. `system` None keeps what the template does by itself; ChatFormatError where it takes no system
        prompt. Spaces that end the last header are left to the message that follows, whose first token holds them.
        """
        if not turns and system is None:
            return list(self.pre_query_ids)
        opening = None if system is None else self._opening(system)
        return self.tokenizer.encode(self.texts.conversation(turns, opening))

    def split_reasoning(self, text: str) -> tuple[str | None, str]:
        """The reasoning in what the assistant wrote, None where there is none, and the answer after it, both stripped.

        Reasoning that never ends has no answer after it.
        """
        texts, marks = self.texts, self.reasoning or THINK_TAGS
        goes_on = texts.past_post_query.startswith(texts.post_query)
        opener = texts.past_post_query.removeprefix(texts.post_query) if goes_on else ""
        return marks.split(text, opened=marks.is_open(texts.post_query), opener=opener)

    def first_tokens(self, openings: Sequence[str]) -> tuple[int, ...]:
        """The ids that a message begins with when it opens as one of these does, with a space before it or without."""
        written = [self.encode(space + text.strip()) for text in openings for space in ("", " ")]
        return tuple(sorted({ids[0] for ids in written if ids and self.tokenizer.decode(ids[:1]).strip()}))

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as they are in the middle of a message."""
        return encode_inside(self.tokenizer, text, self.anchor)

    def identity(self) -> str:
        """A digest of all that shapes prompts and stops, for fingerprints."""
        shaped: list[Any] = [
            self.source,
            asdict(self.texts),
            [self.pre_query_ids, self.post_query_ids, self.past_post_query_ids, self.next_turn_ids],
            [asdict(self.stops), self.bos_id, self.anchor, self.reasoning and asdict(self.reasoning)],
            self.texts.system_problem or self.tokenizer.encode(self._opening("system").text),
        ]
        return hashlib.blake2b(json.dumps(shaped).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a person or a script wants to know of the format, ready for JSON.

        `thinking` is null where nothing is known of the model's reasoning; `options` is what `chat_template_kwargs` can
        set.
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
        """How conversations open under a system prompt: read from the template once for each prompt."""
        opening = self._heads.get(system)
        if opening is None:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            opening = self._heads[system] = system_opening(self.tokenizer, self.texts, system)
        return opening


def speaking(model: Model) -> tuple[ChatTokenizer, str, list[str]]:
    """A model's tokenizer with the chat template that its settings choose, the template's source, and notes on it.

    Raises ModelError when the model is not there, ChatFormatError when it has no such template.
    """
    named = model.chat_template
    shipped_too = named is not None and shipped.find("templates/chat", named) is not None
    family = load_template(named) if named is not None and shipped_too else None
    files = models.resolve(model, weights=False)
    own = ModelTokenizer(
        files.path,
        name=model.model,
        trust_remote_code=model.trust_remote_code,
        template_kwargs=model.chat_template_kwargs,
        template_name=None if family is not None else named,
        thinking=model.thinking != "off",
    )
    if family is not None:
        chosen = FamilyTokenizer(own, family)
        notes = list(chosen.notes)
        if model.chat_template_kwargs:
            notes.append(f"`chat_template_kwargs` say nothing to the template {family.name!r}")
        return chosen, family.name, notes
    if own.template is None:
        raise own.without_template(fitting(own))
    return own, "tokenizer", list(own.notes)


def _without_thinking(
    texts: TemplateTexts, reasoning: Reasoning, *, switched: bool
) -> tuple[TemplateTexts, list[str]]:
    """The texts with a header after which the model does not reason, and a warning where none is known.

    Some templates have a switch; some write past answers under a header that goes on from the one for a fresh answer,
    past the place where reasoning would be. Raises ChatFormatError where the header leaves the model no way but to
    reason.
    """
    past, header = texts.past_post_query, texts.post_query
    is_open = reasoning.is_open(header)
    if not is_open and reasoning.end in header:
        return texts, []
    if past != header and past.startswith(header) and not reasoning.is_open(past):
        return replace(texts, post_query=past), []
    if is_open:
        raise ChatFormatError(
            "`thinking: off` cannot be: the chat template opens a thinking block in the assistant's header and reads "
            "no variable that leaves it out; set `thinking: strip`, which keeps the reasoning in a column of its own"
        )
    if switched:
        return texts, []
    return texts, [
        "nothing in the chat template tells the model not to reason; what it reasons is kept out of the answers"
    ]


def _warnings(texts: TemplateTexts, reasoning: Reasoning | None) -> list[str]:
    found = []
    if reasoning is not None and reasoning.is_open(texts.post_query):
        found.append("the assistant's header opens a thinking block, so responses start inside it")
    if texts.past_post_query != texts.post_query:
        found.append(
            "the assistant's header is written differently for past turns; prompts follow the template"
        )
    if texts.reply_trim.cut:
        found.append("past answers lose their thinking block; prompts follow the template")
    if texts.odd_thoughts:
        found.append(
            "the template writes past answers that hold a thinking block in a way of its own, which prompts do not "
            "follow; keep thinking blocks out of messages"
        )
    stripped = [
        role for role, trim in (("user", texts.user_trim), ("assistant", texts.reply_trim)) if trim.strips
    ]
    if stripped:
        found.append(f"the template strips the messages of {' and '.join(stripped)}; prompts do the same")
    if texts.system_moves:
        found.append("a system prompt stands with the user's last message; prompts follow the template")
    if texts.system_problem is not None:
        found.append(f"{texts.system_problem}; system prompts are refused")
    return found
