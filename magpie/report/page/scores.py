"""How alike the rows are, and what was scored, in figures."""

from __future__ import annotations

from collections.abc import Iterator

from magpie.drawing.charts import Bars, Grid, Histogram, Lines
from magpie.figures.agreement import Agreement
from magpie.figures.diversity import THRESHOLD
from magpie.figures.report_figures import ReportFigures
from magpie.report.judges import agreement_line
from magpie.report.page.figure import PageFigure, percent, table

_MOST_SERIES = 2  # more of them hide each other


def distances(figures: ReportFigures) -> Iterator[PageFigure]:
    """To the nearest row, within the set and to others."""
    series, rows = {}, list[tuple[object, ...]]()
    stored, within = figures.spreads.get("min_neighbor_distance"), figures.within
    said = []
    if stored is not None:
        series["this set"] = stored.values.tolist()
        said.append(f"The mean distance to the nearest other row is {stored.mean:.3f}")
    elif within is not None:
        series["this set"] = within.values.tolist()
        said.append(
            f"The mean distance to the nearest other one of {len(within.values):,} sampled rows is "
            f"{within.values.mean():.3f}"
        )
    for each in figures.distances:
        if len(series) < _MOST_SERIES:
            series[each.name] = each.values.tolist()
        rows.append((each.name, f"{len(each.values):,}", f"{each.values.mean():.3f}", percent(each.near)))
    if rows:
        said.append(
            "nearer than 0.05: "
            + ", ".join(f"{percent(each.near)} to {each.name}" for each in figures.distances)
        )
    if series:
        yield PageFigure(
            "distances",
            "Distance to the nearest row",
            f"{'; '.join(said)}.",
            "Squared L2 distance between embeddings of length 1: 0 is the same, 2 is unrelated. Below 0.05 (a cosine "
            "above 0.975) two rows count as repeats in the published sets.",
            Histogram(
                "distances", "Distance to the nearest row", "squared distance", series, log=False,
                marks=((THRESHOLD, "repeats"),),
            ),
            table(("nearest row of", "rows sampled here", "mean distance", "nearer than 0.05"), rows) if rows else None,
        )  # fmt: skip


def diversity(figures: ReportFigures) -> Iterator[PageFigure]:
    """NovelSum, and what goes with it."""
    name, title = "diversity", "Diversity"
    if not figures.diversity:
        yield PageFigure(name, title, "", "", why_not=figures.missing.get(name, "there is no embedding"))
        return
    first = figures.diversity[0][1]
    rows = [
        (
            of, f"{each.novel_sum.rows:,}", f"{each.novel_sum.value:.4f} ± {each.novel_sum.error:.4f}",
            f"{each.nearest.value:.3f} ± {each.nearest.error:.3f}", percent(each.near.value),
        )
        for of, each in figures.diversity
    ]  # fmt: skip
    yield PageFigure(
        name,
        title,
        f"NovelSum is {first.novel_sum.value:.4f} over {first.novel_sum.rows:,} kept rows: the more the rows differ, "
        "also from their near ones, the higher it is.",
        "NovelSum (arXiv 2502.17184, as the authors' code computes it: K = 10, α = 1, β = 0.5): the mean novelty of a "
        "row, its cosine distances to the others weighted by 1 / rank and by the density around it, here among the "
        "rows of the sets of this table. So its values are compared within one table. All figures depend on how many "
        "rows they are of: equally many of each set, drawn by a seed; ± is one standard error (jackknife).",
        table=table(("set", "rows", "NovelSum", "distance to nearest", "with a near copy"), rows),
    )  # fmt: skip


def seeds(figures: ReportFigures) -> Iterator[PageFigure]:
    """To the nearest seed task, or why that is not known."""
    found, title = figures.seeds, "ROUGE-L with the nearest seed task"
    if found is not None:
        yield PageFigure(
            "seeds",
            title,
            f"The mean is {found.mean:.2f}: 0 has no word in common with any of the {found.seeds:,} seeds, 1 is one of "
            "them.",
            f"F1 of the longest common subsequence of words, of {len(found.values):,} of {found.of:,} kept tasks with "
            "the most similar seed, as in figure 4 of arXiv 2212.10560. What is above the recipe's bound was put out.",
            Histogram("seeds", title, "ROUGE-L F1", {"kept rows": found.values.tolist()}, log=False),
        )  # fmt: skip
    elif "seeds" in figures.missing:
        yield PageFigure("seeds", title, "", "", why_not=figures.missing["seeds"])


def review(figures: ReportFigures) -> Iterator[PageFigure]:
    """What a judge said of tasks, inputs and outputs."""
    found = figures.review
    if found is not None:
        rows = [
            (question, f"{yes:,}", percent(yes / found.rows), percent(published))
            for question, yes, published in found.lines()
        ]
        yield PageFigure(
            "reviewed",
            "Tasks, inputs and outputs, reviewed",
            f"The judge finds {percent(found.all / found.rows)} of {found.rows:,} kept tasks right in all three.",
            "A model's answers. Those of the paper are an expert's, about 200 tasks that GPT-3 wrote (arXiv "
            "2212.10560): they are of other rows and by another judge.",
            table=table(("question", "yes", "of all", "in the paper"), rows),
        )


def saturation(figures: ReportFigures) -> Iterator[PageFigure]:
    """How many rows were new, block by block."""
    curve = None if figures.status is None else figures.status.saturation
    if curve is None:
        return
    points, rows = [], 0
    for block in curve.curve:
        rows += block.rows
        points.append((float(rows), 100 * block.new / block.rows))
    ahead = curve.next
    yield PageFigure(
        "saturation",
        "Saturation",
        f"{ahead.new:,.0f} of the next {ahead.rows:,} rows would be new (± {ahead.standard_error:,.0f}).",
        "A row is new when no kept row before it is near. Counted block by block; the forecast is Good and Toulmin's, "
        "with one standard error.",
        Lines("saturation", "New rows, block by block", "rows so far", "% new", {"new": points}),
    )  # fmt: skip


def rewards(figures: ReportFigures) -> Iterator[PageFigure]:
    """Rewards and reward differences."""
    scores = {
        name: figures.spreads[name].values.tolist()
        for name in ("instruct_reward", "base_reward")
        if name in figures.spreads
    }
    if scores:
        yield PageFigure(
            "rewards",
            "Reward",
            f"The reward model's score of the responses, {figures.spreads[next(iter(scores))].mean:.2f} on average.",
            "Raw logits of the reward model; they can be compared within one reward model only.",
            Histogram("rewards", "Reward", "logit", scores, log=False),
        )
    difference = figures.spreads.get("reward_difference")
    if difference is not None:
        yield PageFigure(
            "reward-difference",
            "Reward difference",
            f"{percent(difference.share_over(0))} of the responses score above the base model's answer.",
            "`instruct_reward` less `base_reward`, which a base model earns that was only shown examples.",
            Histogram(
                "reward-difference", "Reward difference", "difference", {"kept rows": difference.values.tolist()},
                log=False, marks=((0.0, "no better"),),
            ),
        )  # fmt: skip


def safety(figures: ReportFigures) -> Iterator[PageFigure]:
    """The guard's verdicts, and personal data."""
    counts = figures.counts.get("llama_guard")
    if counts is not None:
        bars = tuple((value or "no verdict", counts.kept.get(value, 0)) for value in counts.every)
        yield PageFigure(
            "safety",
            "Safety",
            f"{percent(counts.share('safe'))} of the kept rows with a verdict are safe.",
            "The verdict of the guard model on the whole row, counted.",
            Bars("safety", "Verdicts of the guard", bars, tuple(counts.every.values())),
        )
    for found in figures.personal:
        if found.every:
            name = f"personal-{found.column}".replace("_", "-")
            bars = tuple((kind, found.kept.get(kind, 0)) for kind in found.every)
            yield PageFigure(
                name,
                "Personal data",
                f"In {found.rows:,} of {figures.rows.table.num_rows:,} rows personal data was found "
                f"(`{found.column}`).",
                "Found by pattern and check digit, not by a model: what is counted was marked, taken out or left, as "
                "the recipe says.",
                Bars(name, "Personal data by kind", bars, tuple(found.every.values())),
            )  # fmt: skip


def agreement(figures: ReportFigures) -> Iterator[PageFigure]:
    """How well judges agree."""
    found: tuple[Agreement, ...] = () if figures.status is None else figures.status.agreement
    for agreement in found:
        pairs = agreement.pairs or {}
        cells = {(first, second): count for first, row in pairs.items() for second, count in row.items()}
        name = f"agreement-{agreement.tag}".replace("_", "-")
        down, across = (*agreement.judges, "second answer")[:2]
        yield PageFigure(
            name,
            f"Agreement on {agreement.tag}",
            f"{agreement_line(agreement)}.",
            "1 is full agreement and 0 that of chance; alpha is Krippendorff's, kappa Cohen's.",
            Grid(name, f"Agreement on {agreement.tag}", across, down, cells) if cells else None,
        )
