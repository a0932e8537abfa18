"""What a chat template writes around the turns of a conversation, found by rendering marks and cutting at them.

Nothing is believed until it is checked: real conversations must render to exactly the texts found, or the template is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from magpie.errors import ChatFormatError

_USER, _REPLY, _NEXT, _SYSTEM = "MagpieAsksXq", "ModelRepliesZv", "MagpieGoesOnKw", "SystemSpeaksYj"
_THOUGHT = f"<think>\n{_SYSTEM}\n</think>\n\n"
_OTHERWISE = "name one of templates/chat in the model's `chat_template`, or another model"
_PROBES = (
    'What\'s the difference between "let" & <b>const</b> in JavaScript?\n\n```js\nlet x = {a: 1};\n```',
    "Short answer:\n\n1. `let` can change\\move,\n2. 'const' can't {{ really }} — 100 %.",
    "ok. und auf Deutsch? 🐦 مرحبا 你好",
    "Gern!\n\tA tab, two  spaces.",
    "THANKS, now SHORTER!",
)


class ChatTokenizer(Protocol):
    """A tokenizer with a chat template. `special_tokens` maps the text of every control token to its id."""

    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def special_tokens(self) -> Mapping[str, int]: ...

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """The conversation as text. Raises ChatFormatError when the template cannot write it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`: special tokens in it are parsed, none are added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens visible."""
        ...


@dataclass(frozen=True, slots=True)
class TemplateTexts:
    """The texts a chat template writes before, between and after the turns.

    `past_post_query` stands where `post_query` does once the answer is history: some templates open a thinking block
    for a fresh answer only. `user_lead` and `reply_lead` are the spaces before a message: most tokenizers join them to
    the message's first word, so they belong to it. `strips` holds the roles whose messages are stripped,
    `drops_thoughts` says that a past answer loses its thinking block. `system_problem` says why a system prompt cannot
    be given.
    """

    pre_query: str
    post_query: str
    past_post_query: str
    next_turn: str
    user_lead: str
    reply_lead: str
    strips: frozenset[str]
    drops_thoughts: bool
    system_problem: str | None

    def message(self, at: int, text: str, *, lead: str | None = None) -> str:
        """Turn number `at` as the template writes it, the spaces before it included. `lead` replaces those."""
        if at % 2 and self.drops_thoughts and "</think>" in text:
            text = text.rpartition("</think>")[2].lstrip("\n")
        if _role(at) in self.strips:
            text = text.strip()
        if lead is None:
            lead = self.reply_lead if at % 2 else self.user_lead
        return lead + text

    def after(self, at: int, turns: int) -> str:
        """What follows turn number `at` of so many: the assistant's header, or the user's next one."""
        if at % 2:
            return self.next_turn
        return self.post_query if at == turns - 1 else self.past_post_query

    def conversation(self, turns: Sequence[str], *, opening: tuple[str, str] | None = None) -> str:
        """The whole text of a conversation, up to where the model writes on.

        `opening` replaces the pre-query template and the spaces before the first message.
        """
        text, lead = opening or (self.pre_query, self.user_lead)
        for at, turn in enumerate(turns):
            text += self.message(at, turn, lead=None if at else lead) + self.after(at, len(turns))
        return text


def read_texts(tokenizer: ChatTokenizer) -> TemplateTexts:
    """The texts of the tokenizer's chat template, checked against real conversations. Raises ChatFormatError."""
    pre, post = _cut(tokenizer, [_USER])
    past_pre, past_post, between, last_post = _cut(tokenizer, [_USER, _REPLY, _NEXT])
    if not pre.strip():
        raise ChatFormatError(
            "the chat template writes nothing before the user's message, so no prompt can make the model write one; "
            + _OTHERWISE
        )
    if (past_pre, last_post) != (pre, post):
        raise ChatFormatError(
            "the chat template writes a turn differently once the conversation goes on "
            f"({_first_difference(pre + post, past_pre + last_post)}); {_OTHERWISE}"
        )
    if not between:
        raise ChatFormatError(f"the chat template writes nothing between two turns; {_OTHERWISE}")
    one_header = post.rstrip(" ") == past_post.rstrip(
        " "
    )  # Llama 2 and Mistral write the space with the answer
    asked = _render(tokenizer, [_USER])
    if not one_header and asked == _render(tokenizer, [_USER], add_generation_prompt=False):
        raise ChatFormatError(
            f"the chat template does not write the assistant's header when asked to; {_OTHERWISE}"
        )
    user_lead = _spaces(pre) if _spaces(pre) == _spaces(between) else ""
    reply_lead = _spaces(past_post) if one_header or _spaces(post) == _spaces(past_post) else ""
    texts = TemplateTexts(
        pre_query=pre.removesuffix(user_lead),
        post_query=post.removesuffix(reply_lead),
        past_post_query=past_post.removesuffix(reply_lead),
        next_turn=between.removesuffix(user_lead),
        user_lead=user_lead,
        reply_lead=reply_lead,
        strips=_stripped_roles(tokenizer),
        drops_thoughts=_drops_thoughts(tokenizer),
        system_problem=None,
    )
    _check(tokenizer, texts)
    return replace(texts, system_problem=_system_problem(tokenizer, texts, (past_post, between, post)))


def system_pre_query(tokenizer: ChatTokenizer, texts: TemplateTexts, system: str) -> tuple[str, str]:
    """The pre-query template under the system prompt `system`, and the spaces before the first message.

    Raises ChatFormatError where the template takes no system prompt, or changes this one.
    """
    if texts.system_problem is not None:
        raise ChatFormatError(f"{texts.system_problem}; leave the system prompt out, or use another model")
    head = _cut(tokenizer, [_USER], system=system)[0]
    if system.strip() not in head:
        raise ChatFormatError(
            "the chat template changes the system prompt; leave it out, or write it plainer"
        )
    lead = texts.user_lead and _spaces(head)
    return head.removesuffix(lead), lead


def _check(tokenizer: ChatTokenizer, texts: TemplateTexts, *, system: str | None = None) -> None:
    """Real conversations of 1, 2 and 3 turns are what the texts say."""
    opening = None if system is None else system_pre_query(tokenizer, texts, system)
    for count in (1, 3, 5):
        turns = _PROBES[:count]
        expected = texts.conversation(turns, opening=opening).rstrip(" ")
        rendered = _render(tokenizer, turns, system=system).rstrip(" ")
        if rendered != expected:
            raise ChatFormatError(
                f"the chat template rewrites messages ({_first_difference(expected, rendered)}); {_OTHERWISE}"
            )


def _stripped_roles(tokenizer: ChatTokenizer) -> frozenset[str]:
    stripped = []
    for at in (0, 1):
        turns = [_USER, _REPLY, _NEXT]
        plain = _render(tokenizer, turns)
        turns[at] = f" \n {turns[at]} \n "
        padded = _render(tokenizer, turns)
        if turns[at] not in padded and padded == plain:
            stripped.append(_role(at))
    return frozenset(stripped)


def _drops_thoughts(tokenizer: ChatTokenizer) -> bool:
    thinking = _render(tokenizer, [_USER, _THOUGHT + _REPLY, _NEXT])
    return thinking == _render(tokenizer, [_USER, _REPLY, _NEXT])


def _system_problem(tokenizer: ChatTokenizer, texts: TemplateTexts, after: tuple[str, ...]) -> str | None:
    """Why a system prompt cannot be given; None when it can. `after` is what follows the pre-query without one."""
    try:
        text = _render(tokenizer, [_USER], system=_SYSTEM)
    except ChatFormatError as error:
        return f"the chat template takes no system prompt ({str(error).partition(';')[0]})"
    if text.count(_SYSTEM) != 1:
        return f"the chat template {'repeats' if _SYSTEM in text else 'ignores'} the system prompt"
    try:
        head, *rest = _cut(tokenizer, [_USER, _REPLY, _NEXT], system=_SYSTEM)
        alone, post = _cut(tokenizer, [_USER], system=_SYSTEM)
        if _SYSTEM not in head or head != alone or (*rest, post) != (*after, after[-1]):
            return "the chat template moves the system prompt as a conversation goes on"
        _check(tokenizer, texts, system=_PROBES[-1])
    except ChatFormatError as error:
        return str(error).partition(";")[0]
    return None


def _cut(tokenizer: ChatTokenizer, turns: Sequence[str], *, system: str | None = None) -> list[str]:
    """The rendered conversation without its turns: the texts before, between and after them."""
    rest = text = _render(tokenizer, turns, system=system)
    pieces = []
    for at, turn in enumerate(turns):
        who = f"the {_role(at)}'s message"
        if turn not in text:
            how = f"changes the letters of {who}" if turn.lower() in text.lower() else f"leaves {who} out"
            raise ChatFormatError(f"the chat template {how}; {_OTHERWISE}")
        if text.count(turn) > 1 or turn not in rest:
            how = "repeats" if text.count(turn) > 1 else "moves"
            raise ChatFormatError(f"the chat template {how} {who}; {_OTHERWISE}")
        piece, _, rest = rest.partition(turn)
        pieces.append(piece)
    return [*pieces, rest]


def _render(
    tokenizer: ChatTokenizer,
    turns: Sequence[str],
    *,
    system: str | None = None,
    add_generation_prompt: bool = True,
) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": _role(at), "content": turn} for at, turn in enumerate(turns)]
    return tokenizer.render(messages, add_generation_prompt=add_generation_prompt)


def _role(at: int) -> str:
    return ("user", "assistant")[at % 2]


def _spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]


def _first_difference(expected: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    at = min(len(expected), len(found)) if at is None else at
    return f"{found[at : at + 24]!r} where {expected[at : at + 24]!r} was due"
