"""The sections of the page below its first screen, in order."""

from __future__ import annotations

from magpie.figures.report_figures import ReportFigures
from magpie.report.page.covered import coverage, openings, verbs
from magpie.report.page.figure import Section
from magpie.report.page.kinds import counts, endings, lengths, mismatch
from magpie.report.page.known import checked, copies, what_is_known
from magpie.report.page.scores import (
    agreement,
    distances,
    diversity,
    review,
    rewards,
    safety,
    saturation,
    seeds,
)
from magpie.report.page.times import times


def sections(figures: ReportFigures) -> list[Section]:
    """All sections that have something to show, in order."""
    every = [
        Section("coverage", "What it covers", (*coverage(figures), *openings(figures), *verbs(figures))),
        Section("kinds", "What the rows are", (*counts(figures), *mismatch(figures))),
        Section("length", "How long the texts are", (*lengths(figures), *endings(figures))),
        Section(
            "repeats",
            "How alike the rows are",
            (*distances(figures), *diversity(figures), *seeds(figures), *saturation(figures)),
        ),
        Section(
            "scores",
            "What was scored",
            (*review(figures), *rewards(figures), *safety(figures), *agreement(figures)),
        ),
        Section("work", "What it took", tuple(times(figures))),
        Section(
            "known",
            "What is known of such texts",
            (*checked(figures), *copies(figures)),
            what_is_known(figures),
        ),
    ]
    return [section for section in every if section.figures or section.text]
