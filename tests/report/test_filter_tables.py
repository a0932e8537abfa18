"""A funnel in the terminal: names are printed as they are, and an example is one line whatever it holds."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from magpie.data.select import Explained, FilterComparison, Refiltered
from magpie.report.filter_tables import print_comparison, print_funnel
from magpie.steps.filter import FunnelLine


def printed(found: Refiltered | FilterComparison, *, width: int = 100) -> list[str]:
    said = StringIO()
    show = print_funnel if isinstance(found, Refiltered) else print_comparison
    show(found, Console(file=said, width=width))
    return [line.rstrip() for line in said.getvalue().splitlines()]


def test_a_plain_funnel_has_no_more_than_was_asked_for() -> None:
    line = FunnelLine("[/b] short", 4000, 1500, 2500)
    assert printed(Refiltered(2500, 0, (line,), ("[red] (reads x)",))) == [
        "rule        rows in   lost   left",
        "[/b] short    4,000  1,500  2,500",
        "left out, the run has no such column: [red] (reads x)",
    ]


def test_an_explained_funnel_shows_shares_and_examples() -> None:
    short, large = FunnelLine("short", 10, 3, 7), FunnelLine("large", 7, 0, 7)
    examples = (("a-1", "Two\nlines [/b] \x1b[2J"), ("a-2", ""), ("a-3", "long " * 80))
    found = Refiltered(7, 0, (short, large), (), "the dataset", (
        Explained(short, 6, examples), Explained(large, None, ()),
    ))  # fmt: skip
    lines = printed(found)
    assert lines[:3] == [
        "rule   rows in  lost  left  lost alone  of alone",
        "short       10     3     7           6       50%",
        "large        7     0     7           –         –",
    ]
    assert lines[3:7] == ["", "lost by short", "  a-1  Two lines [/b] \\x1b[2J", "  a-2  (no instruction)"]
    assert len(lines) == 8 and lines[7].startswith("  a-3  long long") and len(lines[7]) <= 100


def test_a_comparison_adds_up() -> None:
    found = FilterComparison(
        ("[/b] one", "other"), 1000, 300, (200, 100), ((), ("x (reads y)",)), "the dataset"
    )
    assert printed(found) == [
        "kept by        rows",
        "both            300",
        "only [/b] one   200",
        "only other      100",
        "neither         400",
        "Jaccard index: 0.500",
        "left out, the dataset has no such column: x (reads y)",
    ]
    narrowed = FilterComparison(("one", "other"), 10, 10, (0, 0), ((), ()), never_answered=1200)
    assert printed(narrowed)[-1].startswith(
        "out because the build's own filter dropped them before they were answered: 1,200 rows"
    )
