"""A model's chat format as token ids: what comes before, between and after the turns, and what stops a turn.

The texts are read from the tokenizer's own chat template by `template.py`; here they become ids, are checked again,
and are joined into prompts. Ids are joined, never strings: a prompt is what the model saw when it wrote each turn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from magpie import models
from magpie.errors import ChatFormatError
from magpie.families import FamilyTokenizer, list_templates, load_template
from magpie.recipe import Model
from magpie.template import ChatTokenizer, TemplateTexts, read_texts, system_pre_query
from magpie.tokenizer import ModelTokenizer

__all__ = ["ChatFormat", "ChatTokenizer", "list_templates"]

_ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")
_ANCHORS = ("", "\n")
_HEADS_KEPT = 1000
_TALK = ("Name three birds, please.", "Heron, wren and magpie.", "Which one sings best?")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one model's conversations are written, as token ids. Make one with `derive` or `from_model`.

    `source` is "tokenizer" or the name of a file of templates/chat. `stop_ids` end a turn: end of turn, end of text,
    and what opens the next header, where they are special tokens; `stop_texts` are headers that are plain text.
    `bos_id` is the token every prompt starts with, and holds once; None where the family has none. A text of `leaks`
    inside a completion means that a header or a special token leaked into it. `anchor` is put before a piece while it
    is encoded and cut off again, for tokenizers that add a space to the beginning of a text.
    """

    source: str
    texts: TemplateTexts
    pre_query_ids: tuple[int, ...]
    post_query_ids: tuple[int, ...]
    past_post_query_ids: tuple[int, ...]
    next_turn_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    bos_id: int | None
    leaks: tuple[str, ...]
    warnings: tuple[str, ...]
    anchor: str
    tokenizer: ChatTokenizer = field(compare=False, repr=False)
    _heads: dict[str, tuple[list[int], str]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def derive(
        cls, tokenizer: ChatTokenizer, *, source: str = "tokenizer", notes: Sequence[str] = ()
    ) -> ChatFormat:
        """The format of the tokenizer's own chat template, checked. Raises ChatFormatError that says why not.

        `notes` are put before the format's own warnings.
        """
        texts = read_texts(tokenizer)
        anchor, seamless = _choose_anchor(tokenizer, texts)
        pre = tuple(tokenizer.encode(texts.pre_query))
        post, past, between = (
            tuple(_encode(tokenizer, text, anchor))
            for text in (texts.post_query, texts.past_post_query, texts.next_turn)
        )
        stops = _stop_ids(tokenizer, (post, past, between))
        words, headers = _plain_headers(tokenizer, texts)
        return cls(
            source=source,
            texts=texts,
            pre_query_ids=pre,
            post_query_ids=post,
            past_post_query_ids=past,
            next_turn_ids=between,
            stop_ids=stops,
            stop_texts=headers,
            bos_id=_bos_id(tokenizer, pre, (*past, *between)),
            leaks=(*_control(tokenizer), *headers, *(f"\n{word}\n" for word in words)),
            warnings=(*notes, *_warnings(texts, stops, seamless=seamless)),
            anchor=anchor,
            tokenizer=tokenizer,
        )

    @classmethod
    def from_model(cls, model: str | Model) -> ChatFormat:
        """The format of a model, given as a recipe's model or its name: hub id, folder or embedded model.

        Only the tokenizer is fetched. The model's `chat_template`, where set, is used in place of the tokenizer's own.
        Raises ModelError when the model is not there, ChatFormatError when its template cannot be used.
        """
        model = Model(model=model) if isinstance(model, str) else model
        family = None if model.chat_template is None else load_template(model.chat_template)
        files = models.resolve(model, weights=False)
        own = ModelTokenizer(
            files.path,
            name=model.model,
            trust_remote_code=model.trust_remote_code,
            template_kwargs=model.chat_template_kwargs,
        )
        if family is None:
            return cls.derive(own, notes=own.notes)
        chosen = FamilyTokenizer(own, family)
        return cls.derive(chosen, source=family.name, notes=chosen.notes)

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

    def prompt(self, turns: Sequence[str], *, system: str | None = None) -> list[int]:
        """Token ids after which the model writes the next turn. `turns` are user, assistant, user, and so on.

        No turns: the user's first message is to be written. An odd number: the assistant answers. An even number: the
        user writes on. `system` None keeps what the template does by itself; ChatFormatError where it takes no system
        prompt.
        """
        texts = self.texts
        head, lead = (self.pre_query_ids, texts.user_lead) if system is None else self._head(system)
        ids = list(head)
        last = len(turns) - 1
        for at, turn in enumerate(turns):
            ids += self.encode(texts.message(at, turn, lead=None if at else lead))
            if at % 2:
                ids += self.next_turn_ids
            else:
                ids += self.post_query_ids if at == last else self.past_post_query_ids
        return ids

    @property
    def answer_stop_ids(self) -> tuple[int, ...]:
        """What ends the assistant's turn, its reasoning included: `stop_ids` but for what the reasoning ends with."""
        return self.stop_ids

    def split_reasoning(self, text: str) -> tuple[str | None, str]:
        """The reasoning in what the assistant wrote, None where there is none, and the answer after it, both stripped.

        Reasoning that never ends has no answer after it.
        """
        before, end, answer = text.rpartition("</think>")
        if not end:
            return None, text.strip()
        return before.strip().removeprefix("<think>").strip(), answer.strip()

    def first_tokens(self, openings: Sequence[str]) -> tuple[int, ...]:
        """The ids that a message begins with when it opens as one of these does, with a space before it or without."""
        written = [self.encode(space + text.strip()) for text in openings for space in ("", " ")]
        return tuple(sorted({ids[0] for ids in written if ids and self.tokenizer.decode(ids[:1]).strip()}))

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as they are in the middle of a message."""
        return _encode(self.tokenizer, text, self.anchor)

    def identity(self) -> str:
        """A digest of all that shapes prompts and stops, for fingerprints."""
        shaped: list[Any] = [
            self.source,
            [self.texts.pre_query, self.texts.post_query, self.texts.past_post_query, self.texts.next_turn],
            [
                self.texts.user_lead,
                self.texts.reply_lead,
                sorted(self.texts.strips),
                self.texts.drops_thoughts,
            ],
            [self.pre_query_ids, self.post_query_ids, self.past_post_query_ids, self.next_turn_ids],
            [self.stop_ids, self.stop_texts, self.leaks, self.bos_id, self.anchor],
            self.texts.system_problem or self._head("system"),
        ]
        return hashlib.blake2b(json.dumps(shaped).encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a person or a script wants to know of the format, ready for JSON."""
        return {
            "pre_query": self.pre_query,
            "post_query": self.post_query,
            "next_turn": self.next_turn,
            "pre_query_ids": list(self.pre_query_ids),
            "stop_ids": list(self.stop_ids),
            "warnings": list(self.warnings),
            "source": self.source,
        }

    def _head(self, system: str) -> tuple[list[int], str]:
        """The ids of the pre-query under a system prompt, and the spaces that follow it: made once for each prompt."""
        head = self._heads.get(system)
        if head is None:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            text, lead = system_pre_query(self.tokenizer, self.texts, system)
            head = self._heads[system] = (self.tokenizer.encode(text), lead)
        return head


def _encode(tokenizer: ChatTokenizer, text: str, anchor: str) -> list[int]:
    """The ids of `text` as they are in the middle of a longer text."""
    if not anchor:
        return tokenizer.encode(text)
    return tokenizer.encode(anchor + text)[len(tokenizer.encode(anchor)) :]


def _choose_anchor(tokenizer: ChatTokenizer, texts: TemplateTexts) -> tuple[str, bool]:
    """The anchor under which joined ids are those of the whole text, and whether there is one.

    Raises ChatFormatError when the joined ids do not even spell the text.
    """
    whole = texts.conversation(_TALK)
    for anchor in _ANCHORS:
        joined = tokenizer.encode(texts.pre_query)
        for at, turn in enumerate(_TALK):
            joined += _encode(tokenizer, texts.message(at, turn), anchor)
            joined += _encode(tokenizer, texts.after(at, len(_TALK)), anchor)
        seamless = joined == tokenizer.encode(whole)
        if seamless:
            break
    if "".join(tokenizer.decode(joined).split()) != "".join(whole.split()):
        raise ChatFormatError(
            "the tokenizer cannot spell its own chat template: encoding and decoding a conversation gives other text; "
            "look at the tokenizer's files, or use another model"
        )
    return (anchor, True) if seamless else ("", False)


def _bos_id(tokenizer: ChatTokenizer, pre: tuple[int, ...], later: tuple[int, ...]) -> int | None:
    """The beginning-of-text id, checked to open the prompt and to be there once.

    A token that opens every turn as well, such as SmolLM2's <|im_start|>, is a header and may come again.
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


def _stop_ids(tokenizer: ChatTokenizer, pieces: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """End of turn and the opening of the next header, which are a piece's first two special tokens; end of text."""
    control = set(_control(tokenizer).values())
    stops = {at for piece in pieces for at in [at for at in piece if at in control][:2]}
    stops |= {tokenizer.special_tokens[text] for text in _ENDS_OF_TEXT if text in tokenizer.special_tokens}
    if tokenizer.eos_id is not None:
        stops.add(tokenizer.eos_id)
    return tuple(sorted(stops))


def _control(tokenizer: ChatTokenizer) -> dict[str, int]:
    """The special tokens that have no place inside a message: all but those around a model's thoughts."""
    return {text: at for text, at in tokenizer.special_tokens.items() if "think" not in text}


def _plain_headers(tokenizer: ChatTokenizer, texts: TemplateTexts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines of the headers that are plain text: single words ("assistant"), and the rest ("### Response:")."""
    between = "|".join(map(re.escape, sorted(tokenizer.special_tokens, key=len, reverse=True)))
    lines = [
        line.strip()
        for text in (texts.post_query, texts.next_turn)
        for piece in (re.split(between, text) if between else [text])
        for line in piece.splitlines()
        if re.search(r"\w", line) and "think" not in line
    ]
    words = [line for line in lines if re.fullmatch(r"\w+", line)]
    return tuple(dict.fromkeys(words)), tuple(dict.fromkeys(line for line in lines if line not in words))


def _warnings(texts: TemplateTexts, stops: tuple[int, ...], *, seamless: bool) -> list[str]:
    found = []
    if texts.post_query.count("<think>") > texts.post_query.count("</think>"):
        found.append("the assistant's header opens a thinking block, so responses start inside it")
    if texts.past_post_query != texts.post_query:
        found.append(
            "the assistant's header is written differently for past turns; prompts follow the template"
        )
    if texts.drops_thoughts:
        found.append("past answers lose their thinking block; prompts follow the template")
    if texts.strips:
        roles = " and ".join(sorted(texts.strips, reverse=True))
        found.append(f"the template strips the messages of {roles}; prompts do the same")
    if texts.system_problem is not None:
        found.append(f"{texts.system_problem}; system prompts are refused")
    if not seamless:
        found.append("token ids at the seams of turns differ from those of the whole text encoded at once")
    if not stops:
        found.append("no token ends a turn; only length and text stops end a completion")
    return found
