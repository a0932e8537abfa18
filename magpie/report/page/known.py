"""What is known of texts that a model writes by itself, and what this dataset was checked against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from magpie.escaping import one_line
from magpie.figures.diversity import THRESHOLD
from magpie.figures.report_figures import ReportFigures
from magpie.recipe import Recipe
from magpie.report.page.figure import PageFigure, percent, table
from magpie.runs.public import public_name
from magpie.text import counted

_KNOWN = (
    "A model that is given only the opening of its chat template writes what its own fine-tuning taught it to expect "
    "there. So some of what comes out is known to be near what it was trained on: measured on OLMo 2, whose data is "
    "public, many rows are near copies by meaning of its fine-tuning data, and a search for equal strings finds about "
    "a tenth of them (arXiv 2510.18554). Treat the rows as you would treat the generator's own training data: its "
    "licences, its personal data and its benchmarks may shine through."
)
_NOT_KNOWN = (
    "What these rows were checked against when they were made is not known: their recipe is not here."
)
_NOT_CHECKED = (
    "These rows were not compared with any evaluation set: before you report a benchmark, name it under "
    "“decontaminate” in the recipe."
)


def what_is_known(figures: ReportFigures) -> tuple[str, ...]:
    """Paragraphs: what is known of such texts, and whether anything was checked."""
    recipe = figures.rows.recipe
    if recipe is None:
        return _KNOWN, _NOT_KNOWN
    return (_KNOWN,) if recipe.decontaminate is not None else (_KNOWN, _NOT_CHECKED)


def checked(figures: ReportFigures) -> Iterator[PageFigure]:
    """The sets that the rows were compared with, and how many rows were found in each."""
    rows = [*_by_recipe(figures), *_for_this_report(figures)]
    if rows:
        yield PageFigure(
            "checked",
            "Checked against",
            f"Near copies or shared words were looked for in {counted(len(rows), 'other set')}.",
            "Rows that the build found were put out; each counts for the first set that it was found in. Rows found "
            "for this report are shares of its sample, and stay in.",
            table=table(("set", "how", "rows found"), rows),
        )  # fmt: skip


def copies(figures: ReportFigures) -> Iterator[PageFigure]:
    """The rows that are near copies of a known dataset, the nearest first."""
    found, recipe = figures.near_copies, figures.rows.recipe
    if found is None or recipe is None or recipe.known is None:
        return
    names = ", ".join(public_name(each) for each in recipe.known.datasets)
    fate = "were rejected" if recipe.known.drop else "are in the dataset all the same"
    shown = [
        (one.id, one_line(one.instruction, 200), one_line(one.known, 200), f"{one.distance:.3f}")
        for one in found.nearest
    ]
    yield PageFigure(
        "near-copies",
        "Near copies of known datasets",
        f"{found.near:,} of {found.rows:,} kept rows ({percent(found.share)}) are near a row of {names}; "
        f"such rows {fate}.",
        f"A squared distance below {recipe.known.distance:g} between embeddings: texts that ask the same in other "
        "words. The nearest are listed.",
        table=table(("row", "instruction", "known row", "distance"), shown) if shown else None,
        why_not=None if shown else "no row is that near",
    )


def _by_recipe(figures: ReportFigures) -> Iterator[tuple[str, str, str]]:
    """Evaluation sets and earlier datasets that the recipe names, with what the run's steps say of them."""
    recipe = figures.rows.recipe
    if recipe is None:
        return
    outcomes, reasons = Counter[str](), Counter[str]()
    for step in () if figures.status is None else figures.status.steps:
        outcomes.update(step.outcomes or {})
        reasons.update(step.rejected)
    known = figures.status is not None
    for each in () if recipe.decontaminate is None else recipe.decontaminate.files:
        yield (
            public_name(each),
            _words_and_meaning(recipe),
            f"{outcomes[f'in {each}']:,}" if known else "",
        )
    for each in () if recipe.dedup is None else recipe.dedup.against:
        how = f"instructions nearer than {recipe.dedup.threshold:g}" if recipe.dedup is not None else ""
        # The reason of such a row ends in the name of the set, as the recipe has it.
        found = sum(count for reason, count in reasons.items() if reason.endswith(f" of {each}"))
        yield public_name(each), how, f"{found:,}" if known else ""


def _words_and_meaning(recipe: Recipe) -> str:
    assert recipe.decontaminate is not None
    distance = recipe.decontaminate.distance
    by_meaning = "" if distance is None else f", or nearer than {distance:g}"
    return f"{recipe.decontaminate.ngram} words in a row{by_meaning}"


def _for_this_report(figures: ReportFigures) -> Iterator[tuple[str, str, str]]:
    for each in figures.distances:
        found = int((each.values < THRESHOLD).sum())
        share = f"{found:,} of {len(each.values):,} sampled ({percent(each.near)})"
        yield each.name, f"for this report: nearer than {THRESHOLD:g}", share
