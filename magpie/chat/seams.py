"""Encoding a piece of a conversation to the token ids that it has in the middle of the whole text."""

from __future__ import annotations

from magpie.chat.template import ChatTokenizer, TemplateTexts
from magpie.errors import ChatFormatError

# Some tokenizers (of SentencePiece) add a space to the beginning of a text. Encoded after an anchor, which is cut off
# again, a piece is not at the beginning.
_ANCHORS = ("", "\n")
_TURNS = ("Name three birds, please.", "Heron, wren and magpie.", "Which one sings best?")


def encode_inside(tokenizer: ChatTokenizer, text: str, anchor: str) -> list[int]:
    """The ids of `text` as they are in the middle of a longer text."""
    if not anchor:
        return tokenizer.encode(text)
    return tokenizer.encode(anchor + text)[len(tokenizer.encode(anchor)) :]


def choose_anchor(tokenizer: ChatTokenizer, texts: TemplateTexts) -> tuple[str, bool]:
    """The anchor with which the joined ids of the pieces equal those of the whole text, and whether there is one.

    Raises ChatFormatError when the joined ids do not even decode to the text.
    """
    whole = texts.conversation(_TURNS)
    for anchor in _ANCHORS:
        joined = tokenizer.encode(texts.pre_query)
        for at, turn in enumerate(_TURNS):
            joined += encode_inside(tokenizer, texts.message(at, turn), anchor)
            joined += encode_inside(tokenizer, texts.after(at, len(_TURNS)), anchor)
        seamless = joined == tokenizer.encode(whole)
        if seamless:
            break
    # Up to white space, where decoders differ. `joined` is that of the last anchor tried.
    if "".join(tokenizer.decode(joined).split()) != "".join(whole.split()):
        raise ChatFormatError(
            "the tokenizer cannot write its own chat template: encoding and decoding a conversation changes its text; "
            "check the tokenizer's files, or use another model"
        )
    return (anchor, True) if seamless else ("", False)
