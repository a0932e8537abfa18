"""Text to print as it is: markup in it has no effect, and control characters are written out."""

from __future__ import annotations

from rich.text import Text

from magpie.escaping import harmless


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 shard", "2,000 shards". `plural` is for nouns that do not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_text(text: str, style: str = "") -> Text:
    """`text` for rich to print, made harmless."""
    return Text(harmless(text).expandtabs(4), style=style)
