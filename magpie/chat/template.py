"""The texts a chat template puts around the turns of a conversation.

They are found by rendering a conversation of marker words and cutting the result at the markers. Then they are checked:
real conversations must render to exactly what these texts predict, or the template is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from magpie.chat.reasoning import Reasoning
from magpie.chat.trim import Trim, find_trim
from magpie.errors import ChatFormatError

# Markers: letters only, so that no template escapes or splits them; mixed case, so that a change of case is seen.
_USER, _REPLY, _NEXT, _SYSTEM = "MagpieAsksXq", "ModelRepliesZv", "MagpieGoesOnKw", "SystemSpeaksYj"
_MARKERS = (_USER, _REPLY, _NEXT)
_ADVICE = "name one of templates/chat in the model's `chat_template`, or another model"
# What templates are known to change: quotes and markup (by escaping), braces, case, other scripts, tabs and spaces.
_PROBES = (
    'What\'s the difference between "let" & <b>const</b> in JavaScript?\n\n```js\nlet x = {a: 1};\n```',
    "Short answer:\n\n1. `let` can change\\move,\n2. 'const' can't {{ really }} — 100 %.",
    "ok. und auf Deutsch? 🐦 مرحبا 你好",
    "Gern!\n\tA tab, two  spaces.",
    "THANKS, now SHORTER!",
)
_PADDED = ("\n Indented?\n", " \n\nYes,\n ", "  and back  ", "\tso.\n\n", "\n\n Fine \t")
_NO_TRIM = Trim()


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
    """How a conversation begins: the pre-query template `text`, and the spaces `lead` before the first message.

    `trim` is what that message loses. Where `next_turn` is set, a conversation of several turns has the system prompt
    there and not in `text`: some templates write it with the user's last message.
    """

    text: str
    lead: str
    trim: Trim
    next_turn: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateTexts:
    """The texts a chat template writes before, between and after the turns.

    `past_post_query` replaces `post_query` before past answers: some templates open a thinking block only for a new
    answer. `user_lead` and `reply_lead` are the spaces before a message: most tokenizers join them to the message's
    first word, so they belong to the message. `first_trim`, `user_trim` and `reply_trim` are what the user's first
    message, the later ones and past answers lose, `system_trim` what the first one loses under a system prompt.
    `odd_thoughts`: past answers with a thinking block are written in a way that `reply_trim` does not describe.
    `system_moves`: the system prompt is written with the user's last message. `system_problem`: why none can be given.
    """

    pre_query: str
    post_query: str
    past_post_query: str
    next_turn: str
    user_lead: str
    reply_lead: str
    first_trim: Trim = _NO_TRIM
    user_trim: Trim = _NO_TRIM
    reply_trim: Trim = _NO_TRIM
    system_trim: Trim = _NO_TRIM
    odd_thoughts: bool = False
    system_moves: bool = False
    system_problem: str | None = None

    @property
    def opening(self) -> Opening:
        """How a conversation begins without a system prompt of one's own."""
        return Opening(self.pre_query, self.user_lead, self.first_trim)

    def message(self, at: int, text: str) -> str:
        """Message number `at`, from 0 on, as the template writes it, with the spaces before it."""
        if at % 2:
            return self.reply_lead + self.reply_trim(text)
        return self.user_lead + (self.user_trim if at else self.first_trim)(text)

    def after(self, at: int, turns: int) -> str:
        """The text after message number `at` of `turns`: the assistant's header, or the user's next one."""
        if at % 2:
            return self.next_turn
        return self.post_query if at == turns - 1 else self.past_post_query

    def conversation(self, turns: Sequence[str], opening: Opening | None = None) -> str:
        """The whole text of a conversation, up to the point where the model continues."""
        opening = opening or self.opening
        # The user's last message, if it is not the first: a system prompt that moves is written before it.
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

    `reasoning` is how the model marks its reasoning, which many templates remove from past answers.
    """
    pre, post = _cut(tokenizer, [_USER])
    past_pre, past_post, between, last_post = _cut(tokenizer, _MARKERS)
    if not pre.strip():
        raise ChatFormatError(
            "the chat template writes nothing before the user's message, so no prompt can make the model write one; "
            + _ADVICE
        )
    if (past_pre, last_post) != (pre, post):
        raise ChatFormatError(
            "the chat template writes a turn differently once the conversation goes on "
            f"({_first_difference(pre + post, past_pre + last_post)}); {_ADVICE}"
        )
    if not between:
        raise ChatFormatError(f"the chat template writes nothing between two turns; {_ADVICE}")
    # Up to spaces: Llama 2 and Mistral write the space between header and answer only with an answer.
    one_header = post.rstrip(" ") == past_post.rstrip(" ")
    # A new answer's header may have more in it than that of a past answer. If it is a different one, it must at least
    # depend on `add_generation_prompt`, or it is no header at all.
    if not post.startswith(past_post.rstrip(" ")) and not _adds_generation_prompt(tokenizer):
        raise ChatFormatError(
            f"the chat template does not write the assistant's header when asked to; {_ADVICE}"
        )
    # Spaces belong to the messages only where every header of the role ends in the same ones.
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
    """How a conversation begins with the system prompt `system`.

    Raises ChatFormatError where the template takes no system prompt, or changes this one.
    """
    if texts.system_problem is not None:
        raise ChatFormatError(f"{texts.system_problem}; leave the system prompt out, or use another model")
    head = _cut(tokenizer, [_USER], system=system)[0]
    # The space around it may go, as in many templates.
    if system.strip() not in head:
        raise ChatFormatError(
            "the chat template changes the system prompt; leave it out, or write it plainer"
        )
    lead = texts.user_lead and _spaces(head)
    between = _cut(tokenizer, _MARKERS, system=system)[2] if texts.system_moves else None
    return Opening(head.removesuffix(lead), lead, texts.system_trim, between and between.removesuffix(lead))


def _adds_generation_prompt(tokenizer: ChatTokenizer) -> bool:
    with_header, without = (_render(tokenizer, [_USER], add_generation_prompt=add) for add in (True, False))
    return with_header != without


def _with_trims(tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None) -> TemplateTexts:
    """`texts` with its trims. Raises ChatFormatError when messages lose more than white space and reasoning."""
    trims = []
    for at in range(len(_MARKERS)):
        trim = find_trim(partial(_rendered_turn, tokenizer, at), reasoning)
        if trim is None:
            raise ChatFormatError(
                f"the chat template rewrites messages (the space around the {_role(at)}'s); {_ADVICE}"
            )
        trims.append(trim)
    first, reply, later = trims
    return replace(
        texts, first_trim=first, reply_trim=reply, user_trim=later, odd_thoughts=not reply.tells_thoughts
    )


def _rendered_turn(tokenizer: ChatTokenizer, at: int, text: str, *, system: str | None = None) -> str | None:
    """How the template writes `text` as message `at` of three; None where it fails, or changes the text around it."""
    turns = list(_MARKERS)
    before, _, after = _render(tokenizer, turns, system=system).partition(turns[at])
    turns[at] = text
    try:
        rendered = _render(tokenizer, turns, system=system)
    except ChatFormatError:
        return None
    # The length first: `before` and `after` must not overlap in a text that is shorter than both.
    is_too_short = len(rendered) < len(before + after)
    if is_too_short or not (rendered.startswith(before) and rendered.endswith(after)):
        return None
    return rendered[len(before) : len(rendered) - len(after)]


def _check(tokenizer: ChatTokenizer, texts: TemplateTexts, *, system: str | None = None) -> None:
    """Raise ChatFormatError unless real conversations of 1, 2 and 3 turns render to what `texts` predict."""
    opening = None if system is None else system_opening(tokenizer, texts, system)
    for probes in (_PROBES, _PADDED):
        for count in (1, 3, 5):
            turns = probes[:count]
            # Spaces at the end are those before an answer, which some templates write only with the answer.
            expected = texts.conversation(turns, opening).rstrip(" ")
            rendered = _render(tokenizer, turns, system=system).rstrip(" ")
            if rendered != expected:
                raise ChatFormatError(
                    f"the chat template rewrites messages ({_first_difference(expected, rendered)}); {_ADVICE}"
                )


def _with_system(
    tokenizer: ChatTokenizer, texts: TemplateTexts, reasoning: Reasoning | None, plain: Sequence[str]
) -> TemplateTexts:
    """`texts` with the way a system prompt is written, or the reason why none can be.

    `plain` are the pieces without one: pre-query, past post-query, next turn, post-query. A template that takes no
    system prompt is still of use, so nothing is raised.
    """
    # These reasons are part of a format's identity: changing their words changes the fingerprints of runs.
    try:
        text = _render(tokenizer, [_USER], system=_SYSTEM)
    except ChatFormatError as error:
        reason = str(error).partition(";")[0]
        return replace(texts, system_problem=f"the chat template takes no system prompt ({reason})")
    if text.count(_SYSTEM) != 1:
        verb = "repeats" if _SYSTEM in text else "ignores"
        return replace(texts, system_problem=f"the chat template {verb} the system prompt")
    try:
        head, post = _cut(tokenizer, [_USER], system=_SYSTEM)
        first, past_post, between, last_post = _cut(tokenizer, _MARKERS, system=_SYSTEM)
        # It must change the beginning alone, or, where it is written with the user's last message, `between` alone.
        stays = (first, between) == (head, plain[2])
        moves = first == plain[0] and _SYSTEM in between
        headers_stay = (past_post, last_post, post) == (plain[1], plain[3], plain[3])
        if _SYSTEM not in head or not headers_stay or not (stays or moves):
            raise ChatFormatError("the chat template moves the system prompt as a conversation goes on")
        trim = find_trim(partial(_rendered_turn, tokenizer, 0 if stays else 2, system=_SYSTEM), reasoning)
        if trim is None:
            raise ChatFormatError("the chat template rewrites messages under a system prompt")
        with_system = replace(texts, system_trim=trim, system_moves=moves)
        _check(tokenizer, with_system, system=_PROBES[-1])
    except ChatFormatError as error:
        return replace(texts, system_problem=str(error).partition(";")[0])
    return with_system


def _cut(tokenizer: ChatTokenizer, turns: Sequence[str], *, system: str | None = None) -> list[str]:
    """The rendered conversation without its turns: the texts before, between and after them."""
    # Each turn must be there once, unchanged and in order, or the pieces between mean nothing.
    rest = text = _render(tokenizer, turns, system=system)
    pieces = []
    for at, turn in enumerate(turns):
        message = f"the {_role(at)}'s message"
        if turn not in text:
            is_there = turn.lower() in text.lower()
            problem = f"changes the letters of {message}" if is_there else f"leaves {message} out"
            raise ChatFormatError(f"the chat template {problem}; {_ADVICE}")
        if text.count(turn) > 1 or turn not in rest:
            verb = "repeats" if text.count(turn) > 1 else "moves"
            raise ChatFormatError(f"the chat template {verb} {message}; {_ADVICE}")
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


def _first_difference(expected: str, rendered: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, rendered, strict=False)) if a != b), None)
    at = min(len(expected), len(rendered)) if at is None else at  # one is the beginning of the other
    return f"{rendered[at : at + 24]!r} where {expected[at : at + 24]!r} was due"
