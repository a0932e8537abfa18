"""What was measured or published, to correct a roofline by and to hold a plan against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from magpie import shipped
from magpie.recipe.reading import read_yaml
from magpie.sizing.cards import Card
from magpie.sizing.lengths import longest_of
from magpie.sizing.roofline import Request, requests_per_second, step_seconds
from magpie.sizing.shapes import ModelShape

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
"""Measured runs, in a checkout. A plan reads of each JSON file there what is under `throughput`: a list of objects with
`card`, `parameters`, `tensor_parallel`, `slots`, `prompt`, `output`, `tokens_per_second` (of one engine), `date` and,
where the run was so short that its last rows count, `rows`."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published run: `hours` of each step on `gpus` cards, the share of rows `kept`, and dollars for 1,000 rows."""

    recipe: str
    filter: str
    rows: int
    kept: float
    card: str
    gpus: int
    hours: Mapping[str, float]
    price: float

    @property
    def gpu_hours(self) -> float:
        """All its GPU hours."""
        return self.gpus * sum(self.hours.values())


@dataclass(frozen=True, slots=True)
class Correction:
    """By how much a measured run was faster (above 1) or slower than the roofline, and which run that was."""

    factor: float
    source: str


def published(*, recipe: str | None = None, filter: str | None = None) -> Published | None:
    """The published run of that recipe, or of that filter; None where there is none."""
    runs = (run for run in _published() if recipe in {None, run.recipe} and filter in {None, run.filter})
    return next(runs, None) if recipe or filter else None


def correction(
    shape: ModelShape, card: Card, tensor_parallel: int, folder: Path = RESULTS
) -> Correction | None:
    """What a measured run of such a model on such a card says of the roofline; None where there is none."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            runs = json.loads(path.read_text(encoding="utf-8"))["throughput"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # figures of another kind
        for run in runs if isinstance(runs, list) else ():
            if _is_alike(run, shape, card, tensor_parallel):
                factor = _reached(run, shape, card, tensor_parallel)
                return Correction(factor, f"benchmarks/results/{path.name}, {run.get('date', 'undated')}")
    return None


def _reached(run: Mapping[str, Any], shape: ModelShape, card: Card, tensor_parallel: int) -> float:
    """The share of the roofline's speed that a measured run reached."""
    request = Request(float(run["prompt"]), float(run["output"]))
    seconds = 1 / requests_per_second(shape, card, request, float(run["slots"]), tensor_parallel)
    if rows := run.get("rows"):
        # As in a plan: the longest row is written to its end, alone.
        alone = step_seconds(shape, card, request, 1, tensor_parallel)
        seconds += max(longest_of(float(rows)) - request.output, 0.0) * alone / float(rows)
    return seconds * float(run["tokens_per_second"]) / request.output


def _is_alike(run: Any, shape: ModelShape, card: Card, tensor_parallel: int) -> bool:
    try:
        size = float(run["parameters"]) / shape.parameters
        return run["card"] == card.name and run["tensor_parallel"] == tensor_parallel and 0.95 < size < 1.05
    except (KeyError, TypeError, ValueError):
        return False


@cache
def _published() -> tuple[Published, ...]:
    runs = read_yaml(shipped.folder("templates/models") / "published.yaml")
    return tuple(Published(**run) for run in runs)
