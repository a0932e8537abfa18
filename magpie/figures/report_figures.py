"""All the figures of a report, from one run or dataset and those it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.data.near import embedder_named
from magpie.errors import RecipeError
from magpie.figures.conversation_tokens import ConversationTokens, conversation_tokens
from magpie.figures.counts import Opening, Personal, TagCounts, openings, personal_data, tag_counts
from magpie.figures.coverage_map import CoverageMap, OtherRows, coverage_map, other_rows
from magpie.figures.diversity import MOST_ROWS, THRESHOLD, Diversity, diversities, nearest_distances
from magpie.figures.funnel import filter_funnel
from magpie.figures.known import NearCopies, near_copies
from magpie.figures.reading import WORST, Row, examples, rows_to_read
from magpie.figures.report_rows import NUMBERS, SEED, Positions, ReportRows, report_rows
from magpie.figures.reviewed import QUESTIONS, Reviewed, reviewed
from magpie.figures.seed_overlap import SeedOverlap, seed_overlap
from magpie.figures.spoken import Languages, languages
from magpie.figures.spreads import Spread, spread
from magpie.figures.status import Status, status
from magpie.figures.topics import Topics, topics
from magpie.figures.vectors import Sampled, sampled, stored_by
from magpie.figures.verbs import VerbNouns, verb_nouns
from magpie.figures.work import Work, work
from magpie.neighbors.vectors import ProgressCallback, no_progress
from magpie.runs.run import Run
from magpie.steps.filter import FunnelLine

if TYPE_CHECKING:
    from magpie.recipe import Model

Result = Any
LEFT_OUT = "left out at the end of a build; `magpie report` computes it"
_LENGTHS = ("instruction_characters", "response_characters")


@dataclass(frozen=True, slots=True)
class Distances:
    """The squared distance of each sampled row to the nearest row of another dataset, or of the sample itself."""

    name: str
    values: np.ndarray[Any, np.dtype[np.float64]]
    near: float
    """The share of rows that are nearer than 0.05, the published threshold of a repeat."""


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """What a report shows. What is None, or empty, could not be computed: `missing` says why, by the figure's name."""

    rows: ReportRows
    status: Status | None
    funnel: tuple[FunnelLine, ...] | None
    examples: Mapping[str, Positions]
    counts: Mapping[str, TagCounts]
    spreads: Mapping[str, Spread]
    personal: tuple[Personal, ...]
    openings: tuple[Opening, ...]
    languages: Languages | None
    topics: Topics | None
    sample: Sampled | None
    map: CoverageMap | None
    others: tuple[OtherRows, ...]
    within: Distances | None
    distances: tuple[Distances, ...]
    diversity: tuple[tuple[str, Diversity], ...]
    """By name: of this set first, then of those it is compared with, of equally many rows of each."""
    tokens: ConversationTokens | None
    verbs: VerbNouns | None
    seeds: SeedOverlap | None
    review: Reviewed | None
    work: Work | None
    reading: tuple[Row, ...]
    near_copies: NearCopies | None
    missing: Mapping[str, str]

    @property
    def kept(self) -> int:
        """How many rows are in."""
        return int(self.rows.kept.sum())


def report_figures(
    source: Run | str | Path,
    *,
    compare: Sequence[str] = (),
    embedder: str | None = None,
    tokenizer: str | None = None,
    price: float | None = None,
    quick: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> ReportFigures:
    """Compute every figure that the rows allow. Raises RunError, RecipeError, ModelError and DamagedShardError.

    `embedder` makes the vectors of rows that have none stored, and those of the datasets in `compare`, which are
    embedded by that of the run where it is not given. `tokenizer` counts the tokens of conversations, by default that
    of the generator. `price` is what an hour of a GPU costs, or of the machine where there is none. `quick` leaves out
    what takes a library or a model of its own: languages of responses, verbs, tokens of conversations, and vectors made
    of words.
    """
    steps = _Stages(on_progress)
    rows = steps.take("reading rows", lambda: report_rows(source))
    run, missing = rows.run, dict[str, str]()
    model = stored_by(rows) if embedder is None else embedder_named(embedder)
    no_vectors = quick and embedder is None and "embedding" not in rows.names
    sample = (
        None
        if no_vectors
        else steps.take("reading vectors", lambda: sampled(rows, embedder=_given(embedder)))
    )
    if sample is None:
        missing["map"] = missing["topics"] = "no embedding is stored with these rows, or there is no row"
    others = [steps.take(f"reading {name}", partial(other_rows, name, model, sample)) for name in compare]
    found_topics = steps.take("finding topics", lambda: topics(sample))
    found_map = steps.take(
        "drawing the map", lambda: None if sample is None else coverage_map(sample, others)
    )
    spoken, verbs = _by_text(rows, steps, missing, quick=quick)
    tokens = steps.take("counting tokens", lambda: "" if quick else conversation_tokens(rows, tokenizer))
    if isinstance(tokens, str):
        missing["conversation-tokens"] = tokens or LEFT_OUT
    lie = steps.take("measuring how the rows lie", lambda: _diversity(sample, rows.name, others, missing))
    counted = steps.take("counting", lambda: None if run is None else status(run))
    finished = run is not None and counted is not None and counted.finished
    return ReportFigures(
        rows=rows,
        status=counted,
        funnel=filter_funnel(run, counted) if finished and run and counted else None,
        examples=examples(rows),
        counts=tag_counts(rows),
        spreads=_spreads(rows),
        personal=personal_data(rows),
        openings=openings(rows),
        languages=spoken,
        topics=found_topics,
        sample=sample,
        map=found_map,
        others=tuple(others),
        within=_within(rows, sample),
        distances=_distances(sample, others),
        diversity=lie,
        tokens=None if isinstance(tokens, str) else tokens,
        verbs=verbs,
        seeds=_seeds(rows, missing),
        review=reviewed([rows.at(np.flatnonzero(rows.kept), list(QUESTIONS))]),
        work=None if run is None else work(run, price=price),
        reading=tuple(steps.take("choosing rows", lambda: rows_to_read(rows, _spoken_of(found_topics, spoken)))),
        near_copies=near_copies(rows),
        missing=missing,
    )  # fmt: skip


def _given(embedder: str | None) -> Model | None:
    return None if embedder is None else embedder_named(embedder)


def _by_text(
    rows: ReportRows, steps: _Stages, missing: dict[str, str], *, quick: bool
) -> tuple[Languages | None, VerbNouns | None]:
    """The languages and the verbs; for either None, and why, where they are not computed."""
    if quick:
        missing["languages"] = missing["verbs"] = LEFT_OUT
        return None, None
    from magpie.models.languages import detect, unload

    try:
        spoken = steps.take("telling the languages of responses", lambda: languages(rows, detect))
    finally:
        unload()
    verbs = steps.take("parsing instructions", lambda: verb_nouns(rows))
    if spoken is None:
        missing["languages"] = "the rows have no language, or no response"
    if verbs is None:
        missing["verbs"] = "spaCy and its English pipeline are not installed, or no instruction is in English"
    return spoken, verbs


def _seeds(rows: ReportRows, missing: dict[str, str]) -> SeedOverlap | None:
    """The overlap with the seeds; None, and why, where their file is gone."""
    try:
        return seed_overlap(rows)
    except RecipeError as error:
        missing["seeds"] = f"the seeds cannot be read: {error}"
        return None


def _spreads(rows: ReportRows) -> dict[str, Spread]:
    found = {name: spread(rows, name) for name in (*_LENGTHS, *NUMBERS)}
    return {name: values for name, values in found.items() if values is not None}


def _spoken_of(found: Topics | None, spoken: Languages | None) -> dict[str, Positions]:
    """Rows that figures speak of, by why."""
    typical = [] if found is None else [topic.typical for topic in found.topics]
    others = np.empty(0, np.int64) if spoken is None else spoken.others[:WORST]
    return {
        "most typical of its topic": np.array(typical, np.int64),
        "answered in another language": others,
    }


def _within(rows: ReportRows, sample: Sampled | None) -> Distances | None:
    """How near the sampled rows lie to each other; None where the rows say it themselves, or for vectors of words."""
    if sample is None or sample.kind == "words" or len(sample.positions) < 2:
        return None
    if rows.has("min_neighbor_distance"):
        return None
    values = nearest_distances(sample.vectors)
    return Distances(rows.name, values, float((values < THRESHOLD).mean()))


def _diversity(
    sample: Sampled | None, name: str, others: Sequence[OtherRows], missing: dict[str, str]
) -> tuple[tuple[str, Diversity], ...]:
    """Figures of this set and of the others, by their names, of equally many rows each."""
    if sample is None or sample.kind == "words":
        missing["diversity"] = "it takes embeddings; name an embedder with --embedder, such as demo-embedder"
        return ()
    held = [sample.vectors, *(other.vectors for other in others)]
    drawn = min([MOST_ROWS, *map(len, held)])
    if drawn < 2:
        missing["diversity"] = "there are too few rows"
        return ()
    rng = np.random.default_rng(SEED)
    at = [rng.permutation(len(vectors))[:drawn] for vectors in held]
    parts = [vectors[rows] for vectors, rows in zip(held, at, strict=True)]
    return tuple(zip([name, *(other.name for other in others)], diversities(parts, at), strict=True))


def _distances(sample: Sampled | None, others: Sequence[OtherRows]) -> tuple[Distances, ...]:
    if sample is None:
        return ()
    found = []
    for other in others:
        values = nearest_distances(sample.vectors, other.vectors)
        found.append(Distances(other.name, values, float((values < THRESHOLD).mean())))
    return tuple(found)


class _Stages:
    """Says which part of the work is at hand, of how many."""

    PARTS = 10

    def __init__(self, on_progress: ProgressCallback) -> None:
        self._on_progress = on_progress
        self._done = 0

    def take(self, what: str, work: Callable[[], Result]) -> Result:
        """Do a part of the work."""
        self._on_progress(what, self._done, max(self.PARTS, self._done + 1))
        result = work()
        self._done += 1
        return result
