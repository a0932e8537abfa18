"""How well judges agree, printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.figures.agreement import Agreement


def print_agreement(agreements: Iterable[Agreement], console: Console) -> None:
    """Print one line for each label on which judges, or the votes of one judge, were compared."""
    for agreement in agreements:
        console.print(as_text(agreement_line(agreement)), soft_wrap=True)


def agreement_line(agreement: Agreement) -> str:
    """Who agrees on what: the share of equal answers, the coefficients, and over how many rows."""
    judges = " and ".join(agreement.judges)
    if len(agreement.judges) > 1:
        agree = f"{judges} agree"
    else:
        agree = f"{judges}, asked {agreement.times} times, agrees with itself"
    if agreement.unanimous is None:
        figures = ["no row has two answers"]
    else:
        coefficients = {
            "kappa": agreement.kappa,
            "weighted kappa": agreement.weighted_kappa,
            "alpha": agreement.alpha,
        }
        figures = [f"{agreement.unanimous:.0%} the same"]
        figures += [f"{name} {value:.2f}" for name, value in coefficients.items() if value is not None]
        figures[-1] += f" (of {agreement.rows:,} rows)"
    missing = f"; {agreement.lost:,} answers are missing" if agreement.lost else ""
    return f"{agree} on {agreement.tag}: {', '.join(figures)}{missing}"
