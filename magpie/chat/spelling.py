"""Whether a tokenizer can write what a model is to read and write: words with spaces, lines, and tokens it has."""

from __future__ import annotations

from collections.abc import Sequence

from magpie.chat.template import ChatTokenizer
from magpie.errors import ChatFormatError

_WORDS = "How do bees fly home"
_SPACING = ("One line\nand another", "\n\n", "two  spaces")


def check_spelling(tokenizer: ChatTokenizer) -> list[str]:
    """What is lost of a text that is encoded and decoded, in words for people.

    Raises ChatFormatError when words lose the spaces between them: all that the model writes would.
    """
    if _WORDS not in _again(tokenizer, _WORDS):
        raise ChatFormatError(
            "the tokenizer loses the spaces between words: what the model writes would be one word; "
            "check the tokenizer's files, or use another model"
        )
    if all(text in _again(tokenizer, f"a{text}b") for text in _SPACING):
        return []
    return ["the tokenizer does not keep line breaks and repeated spaces, so that code and lists lose theirs"]


def check_size(tokenizer: ChatTokenizer, ids: Sequence[int]) -> None:
    """Raise ChatFormatError when prompts hold tokens that the model does not have."""
    size: int | None = getattr(tokenizer, "model_size", None)
    if size is None or max(ids) < size:
        return
    beyond = max(ids)
    raise ChatFormatError(
        f"the chat template writes {tokenizer.decode([beyond])!r}, token {beyond}, and the model has only {size} "
        "tokens; use the tokenizer that belongs to the model, or another template"
    )


def _again(tokenizer: ChatTokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text))
