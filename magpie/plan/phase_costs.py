"""What one phase of a build takes of given GPUs: how its model lies on them, its tokens, and its hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from magpie.engines import find_engine
from magpie.plan.phases import Phase
from magpie.recipe import Model
from magpie.runs.run import RunStep
from magpie.sizing import lengths
from magpie.sizing.cards import Card
from magpie.sizing.fit import Fit, fit, smallest_tensor_parallel
from magpie.sizing.measured import correction
from magpie.sizing.roofline import Request, requests_per_second, step_seconds
from magpie.sizing.shapes import ModelShape, shape_of

_HOUR = 3600.0
_Asked = tuple[str, float, tuple[Request, ...]]
"""A step's name, the rows that come to it, and its requests for each of them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an earlier run of the recipe measured.

    Step by step, the share of its `rows` that came to it, and the tokens that were written for each of those. `kept` is
    the share of the rows in the dataset, and `seconds` how long each phase took, by its name, for all rows.
    """

    run: str
    rows: int
    shares: Mapping[str, float]
    tokens: Mapping[str, float]
    seconds: Mapping[str, float]
    kept: float | None


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step: rows that come to it, tokens read and written for all of them, GPU hours (None where unknown)."""

    name: str
    rows: float
    tokens_read: float
    tokens_written: float
    gpu_hours: float | None


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase. `fit` is how its model lies on the GPUs, None where nothing is loaded or nothing is known of it.

    `engines` work side by side. `wall_hours` is None where nothing says how long it takes, and `problem` says why.
    """

    steps: tuple[StepCost, ...]
    model: str | None
    shape_source: str | None
    fit: Fit | None
    smallest: int | None
    engines: int
    gpu_hours: float | None
    wall_hours: float | None
    problem: str | None = None
    speed_source: str | None = None

    @property
    def name(self) -> str:
        """The names of the steps, joined by arrows."""
        return " → ".join(step.name for step in self.steps)


def phase_cost(phase: Phase, rows: int, card: Card | None, gpus: int, measured: Measured | None) -> PhaseCost:
    """What one phase takes. Without a card, only what is known of it without one."""
    steps = tuple(_step(run_step, rows, measured) for run_step in phase.steps)
    costs = tuple(_tokens(name, count, requests) for name, count, requests in steps)
    empty = PhaseCost(costs, None, None, None, None, 1, None, None)
    seconds = None if measured is None else measured.seconds.get(phase.name)
    if card is None and seconds is not None and measured is not None:
        hours = seconds * rows / measured.rows / _HOUR
        empty = replace(empty, wall_hours=hours, speed_source=f"measured in {measured.run}")
    if phase.model is None:
        return empty
    shape = shape_of(phase.model)
    known = replace(empty, model=phase.model.model, shape_source=None if shape is None else shape.source)
    if shape is None:
        return replace(known, problem="nothing here says what shape it has; fetch its config.json")
    if (problem := _no_gpu(phase, phase.model, card)) is not None:
        return replace(known, problem=problem)
    if card is None:
        return known
    if not phase.needs_engine:
        return _embedding(known, shape, card, gpus, steps)
    return _engine(known, phase.model, shape, (card, gpus), steps)


def _no_gpu(phase: Phase, model: Model, card: Card | None) -> str | None:
    """Why a model is not planned on a card; None where it may be."""
    if phase.needs_engine and not find_engine(model.engine).capabilities.loads_weights:
        return f"engine {model.engine} loads no weights here: its speed is not planned"
    if card is not None and model.device == "cpu":
        return "runs on the CPU: its speed is not planned"
    return None


def _step(run_step: RunStep, rows: int, measured: Measured | None) -> _Asked:
    """A step's name, the rows that come to it, and its requests for each of them."""
    name, requests = run_step.name, run_step.step.requests
    share = 1.0 if measured is None else measured.shares.get(name, 1.0)
    written = None if measured is None else measured.tokens.get(name)
    usual = sum(request.count * request.output for request in requests)
    if written and usual:
        requests = tuple(replace(request, output=request.output * written / usual) for request in requests)
    return name, rows * share, requests


def _tokens(name: str, rows: float, requests: tuple[Request, ...]) -> StepCost:
    read = rows * sum(request.count * request.prompt for request in requests)
    return StepCost(
        name, rows, read, rows * sum(request.count * request.output for request in requests), None
    )


def _embedding(
    known: PhaseCost,
    shape: ModelShape,
    card: Card,
    gpus: int,
    steps: tuple[_Asked, ...],
) -> PhaseCost:
    hours = [_hours(shape, card, rows, requests, slots=1, tensor_parallel=1) for _, rows, requests in steps]
    return _timed(known, hours, gpus=gpus, engines=gpus, tail=0.0)


def _engine(
    known: PhaseCost, model: Model, shape: ModelShape, on: tuple[Card, int], steps: tuple[_Asked, ...]
) -> PhaseCost:
    card, gpus = on
    smallest = smallest_tensor_parallel(
        shape, card.memory, gpu_memory=model.gpu_memory, context_length=model.context_length
    )
    lies = _fit(model, shape, card, model.tensor_parallel)
    known = replace(known, fit=lies, smallest=smallest)
    size = model.tensor_parallel
    if not lies.fits:
        if smallest is None:
            return replace(known, problem=f"does not fit on eight {card.title}")
        size, lies = smallest, _fit(model, shape, card, smallest)
        known = replace(
            known,
            fit=lies,
            problem=f"does not fit with tensor_parallel {model.tensor_parallel}; planned with {size}",
        )
    if gpus < size:
        return replace(known, engines=0, problem=f"one engine needs {size} GPUs and there are {gpus}")
    hours = [
        _hours(shape, card, rows, requests, slots=lies.slots, tensor_parallel=size)
        for _, rows, requests in steps
    ]
    measured = correction(shape, card, size)
    if measured is not None:
        hours = [each / measured.factor for each in hours]
        known = replace(known, speed_source=measured.source)
    engines = gpus // size
    return _timed(
        known, hours, gpus=size * engines, engines=engines, tail=_tail(shape, card, size, model, steps)
    )


def _fit(model: Model, shape: ModelShape, card: Card, tensor_parallel: int) -> Fit:
    return fit(
        shape,
        card.memory,
        tensor_parallel=tensor_parallel,
        gpu_memory=model.gpu_memory,
        context_length=model.context_length,
        row_tokens=model.row_tokens,
        is_a100=card.name.startswith("a100"),
        slots=model.slots,
        batched_tokens=model.batched_tokens,
        graph_sizes=model.graph_sizes,
    )


def _hours(
    shape: ModelShape,
    card: Card,
    rows: float,
    requests: tuple[Request, ...],
    *,
    slots: int,
    tensor_parallel: int,
) -> float:
    """GPU hours of one step."""
    seconds = sum(
        rows * request.count / requests_per_second(shape, card, request, slots, tensor_parallel)
        for request in requests
    )
    return seconds * tensor_parallel / _HOUR


def _tail(
    shape: ModelShape,
    card: Card,
    tensor_parallel: int,
    model: Model,
    steps: tuple[_Asked, ...],
) -> float:
    """Hours in which the longest rows are written to their end, alone: lengths are taken to be lognormal."""
    answers = [
        (rows, request) for _, rows, requests in steps for request in requests if request.output > lengths.TAG
    ]
    if not answers:
        return 0.0
    rows, request = max(answers, key=lambda pair: pair[1].output)
    longest = min(lengths.longest_of(rows), model.context_length - request.prompt)
    alone = step_seconds(shape, card, request, 1, tensor_parallel)
    return max(longest - request.output, 0.0) * alone / _HOUR


def _timed(known: PhaseCost, hours: list[float], *, gpus: int, engines: int, tail: float) -> PhaseCost:
    steps = tuple(
        replace(step, gpu_hours=each if step.tokens_read + step.tokens_written else None)
        for step, each in zip(known.steps, hours, strict=True)
    )
    total = sum(hours)
    return replace(
        known, steps=steps, engines=engines, gpu_hours=total, wall_hours=total / gpus + tail,
        speed_source=known.speed_source or "roofline",
    )  # fmt: skip
