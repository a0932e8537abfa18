"""Text to print as it is: markup in it has no effect, and control characters are written out."""

from __future__ import annotations

from rich.text import Text

from magpie.escaping import harmless


def as_text(text: str, style: str = "") -> Text:
    """`text` for rich to print, made harmless."""
    return Text(harmless(text).expandtabs(4), style=style)
