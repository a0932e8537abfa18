"""Encoding a piece of a conversation so that it has the ids it has in the middle of the whole text."""

from __future__ import annotations

from magpie.chat.template import ChatTokenizer, TemplateTexts
from magpie.errors import ChatFormatError

_ANCHORS = ("", "\n")
_TALK = ("Name three birds, please.", "Heron, wren and magpie.", "Which one sings best?")


def encode_inside(tokenizer: ChatTokenizer, text: str, anchor: str) -> list[int]:
    """The ids of `text` as they are in the middle of a longer text."""
    if not anchor:
        return tokenizer.encode(text)
    return tokenizer.encode(anchor + text)[len(tokenizer.encode(anchor)) :]


def choose_anchor(tokenizer: ChatTokenizer, texts: TemplateTexts) -> tuple[str, bool]:
    """The anchor under which joined ids are those of the whole text, and whether there is one.

    Raises ChatFormatError when the joined ids do not even spell the text.
    """
    whole = texts.conversation(_TALK)
    for anchor in _ANCHORS:
        joined = tokenizer.encode(texts.pre_query)
        for at, turn in enumerate(_TALK):
            joined += encode_inside(tokenizer, texts.message(at, turn), anchor)
            joined += encode_inside(tokenizer, texts.after(at, len(_TALK)), anchor)
        seamless = joined == tokenizer.encode(whole)
        if seamless:
            break
    if "".join(tokenizer.decode(joined).split()) != "".join(whole.split()):
        raise ChatFormatError(
            "the tokenizer cannot spell its own chat template: encoding and decoding a conversation gives other text; "
            "look at the tokenizer's files, or use another model"
        )
    return (anchor, True) if seamless else ("", False)
