"""A diagnosis of doctor, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from magpie.doctor.measures import PROBLEMS
from magpie.doctor.trials import Trial
from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.doctor.doctor import Diagnosis
    from magpie.doctor.measures import Sample
    from magpie.doctor.sense import Sense


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the format, the rates with examples, what was tried, and the verdict with what to change."""
    _print_format(diagnosis, console)
    for warning in diagnosis.warnings:
        console.print(Text("note ", "yellow").append_text(as_text(warning, "default")))
    for line in diagnosis.advice:
        advice = f"for {diagnosis.advisor} models: {line}"
        console.print(Text("advice ", "yellow").append_text(as_text(advice, "default")))
    if diagnosis.sample is not None:
        _print_sample(diagnosis, diagnosis.sample, console)
    if diagnosis.sense is not None:
        _print_sense(diagnosis.sense, console)
    if diagnosis.trials:
        _print_trials(diagnosis, console)
    is_ready = diagnosis.verdict.startswith(("ready", "format ready"))
    style = "bold green" if is_ready else "bold red" if diagnosis.verdict.startswith("not") else "bold yellow"
    console.print(as_text(f"\n{diagnosis.verdict}", style))


def _print_format(diagnosis: Diagnosis, console: Console) -> None:
    """The texts of the format with their token ids, and where a family of templates/chat has other texts."""
    format, family = diagnosis.format, diagnosis.family
    table = Table(title=as_text(diagnosis.model), title_justify="left", title_style="bold", box=None)
    table.add_column("", style="cyan", no_wrap=True)
    for heading in ("text", "ids"):
        table.add_column(heading, overflow="fold", justify="left", ratio=1)
    for name in ("pre_query", "post_query", "next_turn"):
        table.add_row(name, as_text(repr(format[name])), " ".join(map(str, format[f"{name}_ids"])))
    table.add_row("stop_ids", "", " ".join(map(str, format["stop_ids"])))
    table.add_row("source", as_text(format["source"]), "")
    console.print(table)
    if family is None:
        return
    name = family.family.name
    if not family.differences:
        console.print(f"the same as templates/chat/{name}.yaml", highlight=False)
    for what, derived, published in family.differences:
        console.print(f"{what} is not that of templates/chat/{name}.yaml:", highlight=False)
        for label, text in (("derived", derived), (name, published)):
            console.print(Padding(as_text(f"{label}: {text!r}"), (0, 0, 0, 2)))


def _print_sample(diagnosis: Diagnosis, sample: Sample, console: Console) -> None:
    console.print(
        f"\n{sample.rows} instructions, half of them over {sample.median_tokens:g} tokens; "
        f"{sample.tokens_per_second:,.0f} tokens/s; each ends at its first newline, unless told otherwise "
        "(instruct.stop_at_newline: false, for users who write several lines)",
        highlight=False,
    )
    for name in ("valid", *PROBLEMS):
        console.print(f"  {name:<9}{sample.rates[name]:>7.1%}", highlight=False)
        for example in sample.examples.get(name, ()):
            console.print(Padding(as_text(example, "dim"), (0, 0, 0, 4)))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in sample.languages.items())
    expected = f"expected {', '.join(sample.expected)}, {sample.expected_from}"
    console.print(f"languages {shares or 'none'} ({expected})", highlight=False)
    console.print(
        f"distinct first words {sample.distinct_first_words:.2f} a row, words {sample.distinct_1:.2f}, "
        f"pairs of words {sample.distinct_2:.2f}",
        highlight=False,
    )
    near = diagnosis.neighbors
    if near is not None:
        console.print(
            f"nearest neighbours {near.distance.value:.3f} ± {near.distance.error:.3f} apart, "
            f"{near.duplicates.value:.1%} duplicates",
            highlight=False,
        )
    elif diagnosis.no_neighbors is not None:
        console.print(as_text(f"nearest neighbours not measured: {diagnosis.no_neighbors}"))


def _print_sense(sense: Sense, console: Console) -> None:
    if sense.why_not is not None:
        console.print(as_text(f"not read for sense: {sense.why_not}"))
        return
    console.print(
        f"sense {sense.share.value:.0%} of {sense.share.rows} texts read as a user's message, to a small model that "
        f"reads English: the order of their words adds {sense.order:+.2f} to the logarithm of a token's probability, "
        f"the header of a user {sense.speaker:+.2f}",
        highlight=False,
    )
    if sense.ended is not None:
        console.print(
            f"turns {sense.ended.value:.0%} of {sense.ended.rows} texts end by the model's own token where no line "
            "break ends them",
            highlight=False,
        )
    if sense.answered is not None:
        console.print(
            f"answers {sense.answered.value:.0%} of {sense.answered.rows} answers read as replies, and not as more of "
            "the same text",
            highlight=False,
        )
    if sense.words:
        said = ", ".join(f"{word} {share:.0%}" for word, share in sense.words)
        console.print(as_text(f"topics by their commonest words: {said}"))


def _print_trials(diagnosis: Diagnosis, console: Console) -> None:
    table = Table(title="tried", title_justify="left", box=None)
    headings = ("valid", *PROBLEMS, "tokens", "nearest", "sense")
    for heading in ("", *headings, ""):
        table.add_column(heading, justify="right" if heading in headings else "left", overflow="fold")
    before = Trial((), diagnosis.sample, neighbors=diagnosis.neighbors, sense=diagnosis.sense)
    for trial in (before, *diagnosis.trials):
        name = as_text("\n".join(trial.changes) or "as sampled")
        if trial.sample is None:
            table.add_row(name, *[""] * len(headings), as_text(f"refused: {trial.problem}"))
            continue
        rates = [f"{trial.sample.rates[problem]:.0%}" for problem in ("valid", *PROBLEMS)]
        distance = "" if trial.neighbors is None else f"{trial.neighbors.distance.value:.3f}"
        outcome = "" if trial is before else "helped" if trial.helped else "no help"
        read = "" if trial.sense is None or trial.sense.why_not else f"{trial.sense.share.value:.0%}"
        table.add_row(name, *rates, f"{trial.sample.median_tokens:g}", distance, read, outcome)
    console.print(table)
