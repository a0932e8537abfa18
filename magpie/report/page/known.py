"""What is known of texts that a model writes by itself, and what this dataset was checked against."""

from __future__ import annotations

from magpie.figures.report_figures import ReportFigures
from magpie.recipe import Recipe

_KNOWN = (
    "A model that is given only the opening of its chat template writes what its own fine-tuning taught it to expect "
    "there. So some of what comes out is known to be near what it was trained on: measured on OLMo 2, whose data is "
    "public, many rows are near copies by meaning of its fine-tuning data, and a search for equal strings finds about "
    "a tenth of them (arXiv 2510.18554). Treat the rows as you would treat the generator's own training data: its "
    "licences, its personal data and its benchmarks may shine through."
)
_NOT_CHECKED = (
    "These rows were not compared with any evaluation set: before you report a benchmark, name it under "
    "`decontaminate`."
)


def what_is_known(figures: ReportFigures) -> tuple[str, ...]:
    """Paragraphs: what is known, and what was checked."""
    recipe = figures.rows.recipe
    said = [_KNOWN, *_checked(recipe)]
    lost = 0 if figures.status is None else sum(
        count for step in figures.status.steps for reason, count in step.rejected.items() if "contaminat" in reason
    )  # fmt: skip
    if lost:
        said.append(
            f"{lost:,} rows were put out because they share words, or meaning, with an evaluation set."
        )
    for distance in figures.distances:
        said.append(
            f"Compared for this report with {distance.name}: {distance.near:.1%} of the sampled rows are nearer than "
            "0.05 to a row of it, which is the published threshold of a repeat."
        )
    return tuple(said)


def _checked(recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return [
            "What these rows were checked against when they were made is not known: their recipe is not here."
        ]
    said = []
    if recipe.decontaminate is None:
        said.append(_NOT_CHECKED)
    else:
        names = ", ".join(_name(each) for each in recipe.decontaminate.files)
        distance = recipe.decontaminate.distance
        by_meaning = "" if distance is None else f", and by meaning within a squared distance of {distance:g}"
        said.append(
            f"Checked against these evaluation sets, by {recipe.decontaminate.ngram} words in a row{by_meaning}: "
            f"{names}."
        )
    if recipe.dedup is not None and recipe.dedup.against:
        names = ", ".join(_name(each) for each in recipe.dedup.against)
        said.append(f"Rows near an instruction of these datasets were put out: {names}.")
    return said


def _name(dataset: object) -> str:
    """A dataset by its last name: a report is given to others."""
    text = str(getattr(dataset, "path", dataset))
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return text
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2]
