"""A generator that writes about travel in a third of its rows, with the real embedder: status and report name it."""

from __future__ import annotations

import asyncio
import random
from io import StringIO
from pathlib import Path

import pytest
from builds import small_recipe
from rich.console import Console

import magpie
from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Completion, Engine, ModelInfo, Sampling
from magpie.execution.local import LocalExecutor
from magpie.figures.report_figures import report_figures
from magpie.recipe import Model
from magpie.report.page import overview
from magpie.report.run_table import print_status

PLACES = (
    "Lisbon", "Kyoto", "Peru", "the Scottish Highlands", "Morocco", "Vancouver", "Iceland", "Sicily", "Vietnam",
    "Prague", "New Zealand", "Istanbul", "Costa Rica", "Norway", "Cape Town", "Greece", "Chicago", "Nepal",
    "Berlin", "Hawaii",
)  # fmt: skip
TRAVEL = (
    "Plan a {} day trip to {}.", "What should I see on {} days in {}?", "I have {} days in {}, where do I stay?",
    "How much money do I need for {} days in {}?", "What do I pack for {} days in {}?",
    "Which is the best month for a holiday of {} days in {}?", "Make an itinerary of {} days with children in {}.",
    "Can you suggest hotels for {} nights in {}?",
)  # fmt: skip
SUBJECTS = (
    "photosynthesis", "binary search", "sourdough bread", "compound interest", "a cover letter for a nurse",
    "black holes", "the French Revolution", "regular expressions", "knee pain after running", "haiku",
    "a leaking tap", "supply and demand", "SQL joins", "training a puppy", "the immune system", "chess openings",
    "tax on a second job", "stage fright", "lithium batteries", "oil painting", "a wedding speech", "vaccines",
    "recursion", "growing tomatoes", "jazz harmony", "insomnia", "the water cycle", "prime numbers",
    "job interviews", "volcanoes", "a broken heart", "neural networks", "knitting a scarf", "the stock market",
    "medieval castles", "Newton's laws", "gluten", "spreadsheets", "bees", "a short ghost story", "tides",
    "the periodic table", "public libraries", "bicycle brakes", "sign language", "glaciers", "a will", "the violin",
    "climate models", "cheese making", "logarithms", "toddlers who bite", "Roman law", "pottery", "blood pressure",
    "debugging a web page", "the moon", "poker odds", "recycling glass", "an apology to a neighbour",
)  # fmt: skip
ASKED = (
    "Explain {} to a child.", "Write a short essay about {}.", "What do people get wrong about {}?",
    "Give me five facts about {}.", "How would you teach {} in one hour?", "Summarize the history of {}.",
    "Write three quiz questions on {}.", "What is the next thing to learn after {}?",
    "Compare two ways to think of {}.", "I know nothing of {}, how do I begin?", "Argue for and against {}.",
    "Write a dialogue about {}.",
)  # fmt: skip


class Traveller:
    """The scripted engine, but for what its users write: `share` of it is about travel."""

    def __init__(self, engine: Engine, share: float) -> None:
        self._engine, self._share = engine, share

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    async def complete(self, prompt: list[int], sampling: Sampling) -> Completion:
        draw = random.Random(sampling.seed)
        if draw.random() < self._share:
            text = draw.choice(TRAVEL).format(draw.randint(2, 20), draw.choice(PLACES))
        else:
            text = draw.choice(ASKED).format(draw.choice(SUBJECTS))
        return Completion(text, 12, "stop")

    async def close(self) -> None:
        await self._engine.close()


def travelled(folder: Path, rows: int, share: float) -> magpie.Run:
    """A run of so many instructions, embedded by the real embedder."""

    async def opened(model: Model) -> Engine:
        return Traveller(await open_engine(model), share)

    recipe = small_recipe(
        rows=rows, shard_rows=rows // 2, dedup=None, tag=None, respond=None, extend=None, filter=None,
        models={"generator": "scripted", "embedder": {"model": "demo-embedder", "engine": "transformers"}},
    )  # fmt: skip
    executor = LocalExecutor(engines=opened)
    try:
        return build(recipe, folder, executor=executor)
    finally:
        asyncio.run(executor.close())


def said_of(run: magpie.Run) -> tuple[str, str]:
    """What the status says, and what the first screen of the report warns of."""
    printed = StringIO()
    print_status(magpie.status(run), Console(file=printed, width=300))
    return printed.getvalue(), " ".join(overview.warnings(report_figures(run, quick=True)))


@pytest.mark.slow
def test_a_third_about_travel_is_named_and_a_mix_of_many_subjects_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magpie.figures.coverage_map.find_spec", lambda name: None)  # t-SNE takes seconds
    for said in said_of(travelled(tmp_path / "travel", 600, 1 / 3)):
        assert "of the rows are about one topic: " in said
        topic = said.partition("about one topic: ")[2].partition(";")[0]
        assert "days" in topic, topic
    for said in said_of(travelled(tmp_path / "mixed", 600, 0.0)):
        assert "about one topic" not in said
