"""What a chat template writes around the turns of a conversation, found by rendering marks and cutting at them.

Nothing is believed until it is checked: real conversations must render to exactly the texts found, or the template is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from magpie.chat.reasoning import Reasoning
from magpie.chat.trim import Trim, find_trim
from magpie.errors import ChatFormatError

_USER, _REPLY, _NEXT, _SYSTEM = "MagpieAsksXq", "ModelRepliesZv", "MagpieGoesOnKw", "SystemSpeaksYj"
_TALK = (_USER, _REPLY, _NEXT)
_OTHERWISE = "name one of templates/chat in the model's `chat_template`, or another model"
_PROBES = (
    'What\'s the difference between "let" & <b>const</b> in JavaScript?\n\n```js\nlet x = {a: 1};\n```',
    "Short answer:\n\n1. `let` can change\\move,\n2. 'const' can't {{ really }} — 100 %.",
    "ok. und auf Deutsch? 🐦 مرحبا 你好",
    "Gern!\n\tA tab, two  spaces.",
    "THANKS, now SHORTER!",
)
_PADDED = ("\n Indented?\n", " \n\nYes,\n ", "  and back  ", "\tso.\n\n", "\n\n Fine \t")


_NOTHING_LOST = Trim()


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
class Opening:
    """What a system prompt changes: the pre-query template, and the spaces before the first message.

    `trim` is what that message loses. `next_turn`, where set, holds the system prompt in place of `text`: some
    templates write it with the user's last message, so it moves on as the conversation does.
    """

    text: str
    lead: str
    trim: Trim
    next_turn: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateTexts:
    """The texts a chat template writes before, between and after the turns.

    `past_post_query` stands where `post_query` does once the answer is history: some templates open a thinking block
    for a fresh answer only. `user_lead` and `reply_lead` are the spaces before a message: most tokenizers join them to
    the message's first word, so they belong to it. `user_trim` and `reply_trim` say what a message loses,
    `system_trim` what the first one loses under a system prompt; `odd_thoughts` says that an answer with a thinking
    block in it is written in a way that the trims cannot tell. `system_moves` says that a system prompt stands with the
    user's last message, `system_problem` why one cannot be given.
    """

    pre_query: str
    post_query: str
    past_post_query: str
    next_turn: str
    user_lead: str
    reply_lead: str
    first_trim: Trim = _NOTHING_LOST
    user_trim: Trim = _NOTHING_LOST
    reply_trim: Trim = _NOTHING_LOST
    system_trim: Trim = _NOTHING_LOST
    odd_thoughts: bool = False
    system_moves: bool = False
    system_problem: str | None = None

    @property
    def opening(self) -> Opening:
        """How a conversation opens without a system prompt of one's own."""
        return Opening(self.pre_query, self.user_lead, self.first_trim)

    def message(self, at: int, text: str) -> str:
        """Turn number `at` as the template writes it, the spaces before it included."""
        if at % 2:
            return self.reply_lead + self.reply_trim(text)
        return self.user_lead + (self.user_trim if at else self.first_trim)(text)

    def after(self, at: int, turns: int) -> str:
        """What follows turn number `at` of so many: the assistant's header, or the user's next one."""
        if at % 2:
            return self.next_turn
        return self.post_query if at == turns - 1 else self.past_post_query

    def conversation(self, turns: Sequence[str], opening: Opening | None = None) -> str:
        """The whole text of a conversation, up to where the model writes on, opened as `opening` says."""
        opening = opening or self.opening
        last_user = len(turns) // 2 * 2 if len(turns) > 1 else 0
        moved = opening.next_turn if last_user else None
        text = self.pre_query if moved else opening.text
        for at, turn in enumerate(turns):
            if at == (last_user if moved else 0):
                text += opening.lead + opening.trim(turn)
            else:
                text += self.message(at, turn)
            text += moved if moved and at == last_user - 1 else self.after(at, len(turns))
        return text


def read_texts(tokenizer: ChatTokenizer, reasoning: Reasoning | None = None) -> TemplateTexts:
    """The texts of the tokenizer's chat template, checked against real conversations. Raises ChatFormatError.

    `reasoning` is how the model writes its thoughts, which many templates take out of past answers.
    """
    pre, post = _cut(tokenizer, [_USER])
    past_pre, past_post, between, last_post = _cut(tokenizer, _TALK)
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
    # Llama 2 and Mistral write the space before an answer with the answer.
    one_header = post.rstrip(" ") == past_post.rstrip(" ")
    if not post.startswith(past_post.rstrip(" ")) and not _answers_when_asked(tokenizer):
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
    )
    texts = _with_trims(tokenizer, texts, reasoning)
    _check(tokenizer, texts)
    return _with_system(tokenizer, texts, reasoning, (pre, past_post, between, post))


def system_opening(tokenizer: ChatTokenizer, texts: TemplateTexts, system: str) -> Opening:
    """How a conversation opens under the system prompt `system`.

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
    between = _cut(tokenizer, _TALK, system=system)[2] if texts.system_moves else None
    return Opening(head.removesuffix(lead), lead, texts.system_trim, between and between.removesuffix(lead))


def _answers_when_asked(tokenizer: ChatTokenizer) -> bool:
    asked, unasked = (_render(tokenizer, [_USER], add_generation_prompt=add) for add in (True, False))
    return asked != unasked


def _with_trims(tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None) -> TemplateTexts:
    """The texts, and what messages lose. Raises ChatFormatError when that is more than space and thoughts."""
    trims = []
    for at in range(len(_TALK)):
        trim = find_trim(partial(_written, tokenizer, at), reasoning)
        if trim is None:
            raise ChatFormatError(
                f"the chat template rewrites messages (the space around the {_role(at)}'s); {_OTHERWISE}"
            )
        trims.append(trim)
    first, reply, later = trims
    return replace(
        texts, first_trim=first, reply_trim=reply, user_trim=later, odd_thoughts=not reply.tells_thoughts
    )


def _written(tokenizer: ChatTokenizer, at: int, text: str, *, system: str | None = None) -> str | None:
    """How the template writes `text` as turn number `at` of three; None when it fails, or changes what is around it."""
    turns = list(_TALK)
    before, _, after = _render(tokenizer, turns, system=system).partition(turns[at])
    turns[at] = text
    try:
        found = _render(tokenizer, turns, system=system)
    except ChatFormatError:
        return None
    if len(found) < len(before + after) or not (found.startswith(before) and found.endswith(after)):
        return None
    return found[len(before) : len(found) - len(after)]


def _check(tokenizer: ChatTokenizer, texts: TemplateTexts, *, system: str | None = None) -> None:
    """Real conversations of 1, 2 and 3 turns are what the texts say, with spaces around their messages and without."""
    opening = None if system is None else system_opening(tokenizer, texts, system)
    for probes in (_PROBES, _PADDED):
        for count in (1, 3, 5):
            turns = probes[:count]
            expected = texts.conversation(turns, opening).rstrip(" ")
            rendered = _render(tokenizer, turns, system=system).rstrip(" ")
            if rendered != expected:
                raise ChatFormatError(
                    f"the chat template rewrites messages ({_first_difference(expected, rendered)}); {_OTHERWISE}"
                )


def _with_system(
    tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None, plain: Sequence[str]
) -> TemplateTexts:
    """The texts, and how a system prompt is written, or why none can be. `plain` are the pieces without one."""
    try:
        text = _render(tokenizer, [_USER], system=_SYSTEM)
    except ChatFormatError as error:
        reason = str(error).partition(";")[0]
        return replace(texts, system_problem=f"the chat template takes no system prompt ({reason})")
    if text.count(_SYSTEM) != 1:
        what = "repeats" if _SYSTEM in text else "ignores"
        return replace(texts, system_problem=f"the chat template {what} the system prompt")
    try:
        head, post = _cut(tokenizer, [_USER], system=_SYSTEM)
        first, past_post, between, last_post = _cut(tokenizer, _TALK, system=_SYSTEM)
        stays = (first, between) == (head, plain[2])
        moves = first == plain[0] and _SYSTEM in between
        same = (past_post, last_post, post) == (plain[1], plain[3], plain[3])
        if _SYSTEM not in head or not same or not (stays or moves):
            raise ChatFormatError("the chat template moves the system prompt as a conversation goes on")
        trim = find_trim(partial(_written, tokenizer, 0 if stays else 2, system=_SYSTEM), reasoning)
        if trim is None:
            raise ChatFormatError("the chat template rewrites messages under a system prompt")
        found = replace(texts, system_trim=trim, system_moves=moves)
        _check(tokenizer, found, system=_PROBES[-1])
    except ChatFormatError as error:
        return replace(texts, system_problem=str(error).partition(";")[0])
    return found


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
