"""How well judges agree, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.figures.agreement import Agreement


def print_agreement(found: Iterable[Agreement], console: Console) -> None:
    """One line for each tag on which judges, or a judge's votes, were compared."""
    for one in found:
        console.print(as_text(agreement_line(one)), soft_wrap=True)


def agreement_line(found: Agreement) -> str:
    """Who agrees on what: the share of equal answers, the coefficients, and of how many rows."""
    who = " and ".join(found.judges)
    agree = (
        f"{who} agree" if len(found.judges) > 1 else f"{who}, asked {found.times} times, agrees with itself"
    )
    if found.unanimous is None:
        figures = ["no row has two answers"]
    else:
        named = {"kappa": found.kappa, "weighted kappa": found.weighted_kappa, "alpha": found.alpha}
        figures = [f"{found.unanimous:.0%} the same"]
        figures += [f"{name} {value:.2f}" for name, value in named.items() if value is not None]
        figures[-1] += f" (of {found.rows:,} rows)"
    lost = f"; {found.lost:,} answers are missing" if found.lost else ""
    return f"{agree} on {found.tag}: {', '.join(figures)}{lost}"
