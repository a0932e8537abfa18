"""Text that a model wrote is printed as text: every script stays, and nothing is obeyed."""

from __future__ import annotations

from magpie.escaping import harmless, one_line


def test_harmless_keeps_every_script_and_line() -> None:
    kept = "Grüße\n\tनमस्ते 语言 🏴󠁧󠁢󠁥󠁮󠁧󠁿 👩‍👩‍👧 שלום"
    assert harmless(kept) == kept
    assert harmless("a\r\nb") == "a\nb"


def test_one_line_leaves_out_the_middle() -> None:
    assert one_line("a\n b") == "a b"
    cut = one_line("x" * 300 + "y" * 300, 101)
    assert len(cut) <= 101 and cut.startswith("xxx") and cut.endswith("yyy")
