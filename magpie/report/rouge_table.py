"""What the ROUGE-L filter decided, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.data.rouge import RougeResult

_EXAMPLES = 5
_SHOWN = 70  # characters of a text


def print_rouge(result: RougeResult, console: Console) -> None:
    """Print how many instructions are kept, and the first of those that are not, beside what they are like."""
    count = len(result.decisions)
    share = f" ({result.accepted / count:.0%})" if count else ""
    console.print(
        as_text(
            f"{result.accepted:,} of {count:,} instructions are kept{share}; "
            f"{result.rejected:,} have a ROUGE-L above {result.threshold:g} with an earlier one"
        ),
        soft_wrap=True,
    )
    averages = [decision.average for decision in result.decisions if decision.average is not None]
    if averages:
        console.print(as_text(f"mean ROUGE-L with all earlier ones: {sum(averages) / len(averages):.4f}"))
    if not result.rejected:
        return
    table = Table(title="the first that are not", title_justify="left", expand=False)
    for heading in ("instruction", "like", "ROUGE-L"):
        table.add_column(heading, justify="right" if heading == "ROUGE-L" else "left", overflow="fold")
    pairs = zip(result.instructions.texts, result.decisions, strict=True)
    rejected = ((text, decision) for text, decision in pairs if not decision.accepted)
    for (text, decision), _ in zip(rejected, range(_EXAMPLES), strict=False):
        number, score = decision.most_similar[0]
        table.add_row(as_text(_cut(text)), as_text(_cut(result.texts[number])), f"{score:.2f}")
    console.print(table)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
