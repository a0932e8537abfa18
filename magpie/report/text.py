"""Text to print as it stands: no markup is read in it, no control character survives."""

from __future__ import annotations

from rich.text import Text

from magpie.data.escaping import harmless


def as_text(text: str, style: str = "") -> Text:
    """The text, made harmless, for rich to print."""
    return Text(harmless(text).expandtabs(4), style=style)
