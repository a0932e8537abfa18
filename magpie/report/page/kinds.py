"""What the rows are, in figures: their tags, languages, lengths and endings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from magpie.drawing.charts import Bars, Grid, Histogram
from magpie.figures.counts import CUT
from magpie.figures.report_figures import ReportFigures
from magpie.figures.spreads import LIMITS
from magpie.report.page.figure import PageFigure, Table, percent, table
from magpie.runs.public import public_name

_MARKS = tuple((float(limit), f"{limit:,}") for limit in LIMITS)
_NO_ANSWER = "no answer"
_COUNTED = {
    "categories": (
        "task_category",
        "Task categories",
        "What kind of task the judge takes each instruction for.",
    ),
    "difficulty": ("difficulty", "Difficulty", "How hard the judge finds the instructions."),
    "quality": ("input_quality", "Quality", "How clear and useful the judge finds the instructions."),
    "languages": ("language", "Languages", "The language of the instructions."),
    "steering": ("steer_id", "Steering prompts", "How many rows each steering prompt gave."),
}
_ENDS = {
    "ends": ("response_finish_reason", "How responses ended"),
    "instruction-ends": ("instruct_finish_reason", "How instructions ended"),
}


def counts(figures: ReportFigures) -> Iterator[PageFigure]:
    """The values of each tag, and the sampling settings."""
    own = {
        name: (
            name,
            f"Rows by {name}",
            f"What the judge answered to a question of the recipe's own, `{name}`.",
        )
        for name in figures.rows.own_tags
    }
    for name, (column, title, says) in (_COUNTED | own).items():
        counts = figures.counts.get(column)
        if counts is None:
            continue
        inside = tuple((value or _NO_ANSWER, counts.kept.get(value, 0)) for value in counts.every)
        yield PageFigure(
            name,
            title,
            f"{says} Kept rows beside all; the kept ones are spread by {counts.entropy:.2f} bits.",
            f"The values of `{column}`, counted.",
            Bars(name, title, inside, tuple(counts.every.values())),
        )
    settings = _settings(figures)
    if len(settings) > 1:
        yield PageFigure(
            "sampling",
            "Sampling",
            "How many rows each sampling setting of the instructions gave, and how many of those are kept.",
            "The values of `temperature` and `top_p`, counted.",
            Bars(
                "sampling", "Rows by sampling setting", tuple((name, inside) for name, (inside, _) in settings.items()),
                tuple(every for _, every in settings.values()),
            ),
        )  # fmt: skip


def _settings(figures: ReportFigures) -> dict[str, tuple[int, int]]:
    table_, counted = figures.rows.table, dict[str, tuple[int, int]]()
    if not {"temperature", "top_p"} <= set(table_.column_names):
        return counted
    columns = (table_[name].to_pylist() for name in ("temperature", "top_p"))
    for temperature, top_p, kept in zip(*columns, figures.rows.kept, strict=True):
        name = setting(temperature, top_p)
        inside, every = counted.get(name, (0, 0))
        counted[name] = (inside + int(kept), every + 1)
    return dict(sorted(counted.items()))


def setting(temperature: float | None, top_p: float | None) -> str:
    """A sampling setting in words."""
    return "unknown" if temperature is None else f"temperature {temperature:.3g}, top_p {top_p or 1:.3g}"


def mismatch(figures: ReportFigures) -> Iterator[PageFigure]:
    """The languages asked and answered in."""
    spoken = figures.languages
    if spoken is None:
        why = figures.missing.get("languages", "no language can be told")
        yield PageFigure("mismatch", "Languages of instruction and response", "", "", why_not=why)
    elif spoken.pairs:
        most = dict(list(spoken.pairs.items())[:40])
        yield PageFigure(
            "mismatch",
            "Languages of instruction and response",
            f"{percent(spoken.differ)} of the responses are in another language than their instruction.",
            f"lingua's verdict on the first letters of {spoken.rows:,} responses of {spoken.of:,}, a seeded "
            "sample, beside the instruction's `language`.",
            Grid("mismatch", "Languages of instruction and response", "response", "instruction", most),
        )  # fmt: skip


def lengths(figures: ReportFigures) -> Iterator[PageFigure]:
    """Characters and tokens."""
    names = {"instruction": "instruct_tokens", "response": "response_tokens"}
    letters = {
        name: figures.spreads[f"{name}_characters"].values.tolist()
        for name in names if f"{name}_characters" in figures.spreads
    }  # fmt: skip
    tokens = {
        name: figures.spreads[column].values.tolist()
        for name, column in names.items() if column in figures.spreads
    }  # fmt: skip
    for name, title, unit, series, how in (
        ("characters", "Characters", "characters", letters, "Unicode characters of each kept text, counted."),
        ("tokens", "Tokens", "tokens", tokens, _tokenizer(figures)),
    ):  # fmt: skip
        if series:
            yield PageFigure(
                name,
                title,
                f"How long the instructions and the first responses are, in {unit}.",
                how,
                Histogram(name, f"Lengths in {unit}", unit, series),
                _over(figures) if name == "tokens" else None,
            )
    yield _conversations(figures)


def _conversations(figures: ReportFigures) -> PageFigure:
    """What a trainer's window has to hold."""
    name, title, found = "conversation-tokens", "Tokens of whole conversations", figures.tokens
    if found is None:
        return PageFigure(name, title, "", "", why_not=figures.missing[name])
    shares = [f"{percent(found.share_over(limit))} over {limit:,}" for limit in LIMITS]
    return PageFigure(
        name,
        title,
        f"Half of the conversations have {np.median(found.values):,.0f} tokens or fewer; of all, {', '.join(shares)}.",
        f"All turns of {len(found.values):,} of {found.of:,} kept rows, a seeded sample, as the chat template of "
        f"{public_name(found.tokenizer)} renders them, counted by its tokenizer.",
        Histogram(name, title, "tokens", {"kept rows": found.values.tolist()}, marks=_MARKS),
    )


def _tokenizer(figures: ReportFigures) -> str:
    recipe = figures.rows.recipe
    named = "the generator" if recipe is None else public_name(recipe.model("generator").model)
    return f"Tokens as the engine counted them, by the tokenizer of {named}; reasoning is counted with the response."


def _over(figures: ReportFigures) -> Table:
    rows = []
    for name, column in (("instruction", "instruct_tokens"), ("response", "response_tokens")):
        spread = figures.spreads.get(column)
        if spread is not None:
            over = [percent(spread.share_over(limit)) for limit in LIMITS]
            rows.append((name, f"{spread.median:,.0f}", f"{spread.most:,.0f}", *over))
    return table(("tokens", "median", "most", *(f"over {limit:,}" for limit in LIMITS)), rows)


def endings(figures: ReportFigures) -> Iterator[PageFigure]:
    """How texts ended, and how many were cut."""
    for name, (column, title) in _ENDS.items():
        counts = figures.counts.get(column)
        if counts is not None:
            bars = tuple((value or _NO_ANSWER, counts.kept.get(value, 0)) for value in counts.every)
            yield PageFigure(
                name,
                title,
                f"{percent(counts.share(CUT))} of the kept ones were cut: “{CUT}” is a text that came to "
                "its limit of tokens.",
                f"The values of `{column}`, counted.",
                Bars(name, title, bars, tuple(counts.every.values())),
            )  # fmt: skip
