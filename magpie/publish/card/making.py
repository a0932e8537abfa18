"""A card made: measured, drawn and written, for a folder or for the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from magpie.drawing.charts import Bars, Chart, Histogram
from magpie.drawing.files import can_draw, draw
from magpie.publish.card.coverage import coverage
from magpie.publish.card.facts import Facts, File, gather
from magpie.publish.card.front import front_matter
from magpie.publish.card.measures import measure, size_of
from magpie.publish.card.rendering import render
from magpie.publish.card.terms import Terms, models_of, terms_of
from magpie.publish.card.tokens import MOST_ROWS, count_tokens
from magpie.publish.progress import Bar, no_bar
from magpie.publish.source import Part, Source, What


@dataclass(frozen=True, slots=True)
class Card:
    """The text of a card, its figures as PNG by their places, and the licence that it gives."""

    text: str
    figures: Mapping[str, bytes]
    terms: Terms
    parts: tuple[Part, ...]


def make_card(
    source: Source,
    *,
    what: What = "filtered",
    repo: str | None = None,
    endpoint: str = "https://huggingface.co",
    revision: str = "main",
    license: str | None = None,
    tokenizer: str | None = None,
    checksums: Mapping[str, tuple[int, str]] | None = None,
    bar: Bar = no_bar,
    with_figures: bool = True,
) -> Card:
    """The card of a dataset, for its folder, or for `repo` on the Hub.

    `license` is that of a person who gives the dataset under one. `checksums` are the size and SHA-256 of each Parquet
    file, where they are known already. Figures are drawn where matplotlib is installed. Raises RunError, RecipeError,
    ModelError and DamagedShardError.
    """
    parts = source.parts(what)
    rows = source.kept.manifest.rows
    with bar("reading rows", rows) as done:
        measures = measure(source, for_tokens=MOST_ROWS, on_rows=done)
    with bar("counting tokens", len(measures.conversations)) as done:
        tokens = count_tokens(source, measures, tokenizer, done)
    models = models_of(source)
    terms = terms_of(models, measures, license)
    sizes = {part.prefix: size_of(part) for part in parts}
    files = _files(parts, checksums if checksums is not None else _checksums(parts, bar))
    with bar("drawing the map", 1) as done:
        covered = coverage(source.run, with_map=with_figures and can_draw())
        done(1)
    facts = gather(
        source, parts=parts, sizes=sizes, measures=measures, models=models, terms=terms, tokens=tokens, files=files,
        coverage=covered, repo=repo,
    )  # fmt: skip
    wanted = _figures(facts) if with_figures and can_draw() else []
    front = front_matter(source, parts, sizes, measures, terms)
    folder = "" if repo is None else f"{endpoint}/datasets/{repo}/resolve/{quote(revision, safe='')}/"
    names = tuple(figure.name for figure in wanted)
    return Card(render(front, facts, names, folder), draw(wanted), terms, parts)


def _figures(facts: Facts) -> list[Chart]:
    figures: list[Chart] = []
    if facts.status is not None and facts.recipe is not None and facts.recipe.rows:
        steps = [("asked for", facts.recipe.rows)]
        # A step that loses nothing has no bar of its own: the funnel shows where rows went.
        steps += [(step.name, step.rows_out) for step in facts.status.steps if step.rows_out < step.rows_in]
        figures.append(Bars("funnel", "Rows left after each step that loses some", tuple(steps)))
    for name, column, title in (
        ("categories", "task_category", "Rows by task category, as the judge gives it"),
        ("quality", "input_quality", "Rows by quality of the instruction, as the judge gives it"),
        ("difficulty", "difficulty", "Rows by difficulty, as the judge gives it"),
    ):
        counted = facts.counts.get(column, [])
        if facts.measures.rows and any(value is not None for value, _ in counted):
            bars = tuple((value or "no answer", count) for value, count in counted)
            figures.append(Bars(name, title, bars))
    lengths = {name: values for name, values in facts.measures.characters.items() if values}
    if lengths:
        figures.append(Histogram("lengths", "How long the texts are", "characters", lengths))
    if facts.coverage is not None:
        figures += facts.coverage.charts()
    return figures


def _checksums(parts: tuple[Part, ...], bar: Bar) -> dict[str, tuple[int, str]]:
    import hashlib

    found: dict[str, tuple[int, str]] = {}
    total = sum(len(part.manifest.files) for part in parts)
    with bar("reading files", total) as done:
        for part in parts:
            for file in part.manifest.files:
                data = part.files.storage.read(f"{part.files.prefix}{file.name}")
                found[f"{part.prefix}{file.name}"] = (len(data), hashlib.sha256(data).hexdigest())
                done(1)
    return found


def _files(parts: tuple[Part, ...], checksums: Mapping[str, tuple[int, str]]) -> list[File]:
    return [
        File(path, file.rows, *checksums[path])
        for part in parts
        for file in part.manifest.files
        for path in (f"{part.prefix}{file.name}",)
    ]
