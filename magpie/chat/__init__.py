"""A model's chat format: the texts its template puts around the turns, derived from the tokenizer and checked."""

from magpie.chat.families import list_templates
from magpie.chat.format import ChatFormat
from magpie.chat.plain import PlainText
from magpie.chat.template import ChatTokenizer
from magpie.chat.transcript import Transcript

__all__ = ["ChatFormat", "ChatTokenizer", "PlainText", "Transcript", "list_templates"]
