"""Can this model write instructions? Its chat format, a sample of what it writes, and what to change.

The sample goes through the steps of a build: `instruct`, `clean` and `language`. It is drawn at temperature 1.0 and
top_p 1.0, with at most 256 tokens, and ends at the first newline. `measures.py` says what is counted, `sense.py`
whether it reads as messages of users, `verdict.py` when a model is ready or usable, and `trials.py` how changes are
tried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magpie import models
from magpie.chat import ChatFormat
from magpie.chat.families import compare, fitting, for_model
from magpie.chat.tokenizer import ModelTokenizer
from magpie.doctor.measures import Mean, Neighbors, Sample, Written, measure
from magpie.doctor.sampling import Sampler, neighbors, sampling_recipe
from magpie.doctor.sense import FEWEST, Sense, answers_to_read, ended_share, read_sense, texts_to_read
from magpie.doctor.trials import (
    Trial,
    differing,
    judge_by_sense,
    judge_trials,
    neighbors_json,
    try_asking,
    try_out,
    with_neighbors,
)
from magpie.doctor.verdict import has_problems, judge, propose
from magpie.engines import find_engine
from magpie.errors import ChatFormatError, RecipeError
from magpie.execution.signals import run_to_end
from magpie.neighbors.vectors import no_progress
from magpie.plan import BuildTools
from magpie.recipe import Draw, EngineKind, Instruct, Model

if TYPE_CHECKING:
    from magpie.chat.families import Comparison
    from magpie.neighbors.vectors import ProgressCallback
    from magpie.recipe import Recipe

INSTRUCT = Instruct(mix=(Draw(temperature=1.0, top_p=1.0),), max_tokens=256, stop_at_newline=True)
"""What doctor samples with."""

# Room for any pre-query template and 1024 tokens. A longer context would only take more memory.
_CONTEXT = 2048

_ENDLESS = 32  # texts that are drawn to see how the model ends them, and that are answered


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found.

    `verdict` begins with "ready", "usable with: " or "not usable: ", or says that only the format was checked.
    `changes` are recipe lines that it asks for, such as "instruct.max_tokens: 1024"; `--set` takes the same paths.

    `format` is `ChatFormat.describe()` with the token ids of all three texts. `family` compares it with the file of
    templates/chat that is most like it; None where no file is like it. `advice` are recipe lines for models of the
    family `advisor` which the sample did not follow. That family is taken from the model's name, or else it is the one
    compared with.

    `sample` is None when only the format was checked. `neighbors` is None then, and when they could not be measured:
    `no_neighbors` says why. `trials` are the changes that were tried out, if any. `sense` says whether the texts read
    as messages of users; None where there is no sample.
    """

    model: str
    format: Mapping[str, Any]
    verdict: str
    family: Comparison | None = None
    advisor: str | None = None
    advice: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    sample: Sample | None = None
    neighbors: Neighbors | None = None
    no_neighbors: str | None = None
    trials: tuple[Trial, ...] = ()
    sense: Sense | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual about the format."""
        return tuple(self.format["warnings"])

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON can hold it, the format's keys first."""
        diagnosis: dict[str, Any] = {"model": self.model, **self.format, "family": None}
        if self.family is not None:
            diagnosis["family"] = {
                "name": self.family.family.name,
                "differences": [list(difference) for difference in self.family.differences],
            }
        diagnosis |= {
            "verdict": self.verdict,
            "changes": list(self.changes),
            "advice": list(self.advice),
            "advisor": self.advisor,
        }
        if self.sample is not None:
            diagnosis |= self.sample.to_json() | neighbors_json(self.neighbors)
            diagnosis["no_neighbors"] = self.no_neighbors
        if self.sense is not None:
            diagnosis |= self.sense.to_json()
        if self.trials:
            diagnosis["trials"] = [trial.to_json() for trial in self.trials]
        return diagnosis


def doctor(
    model: str | Model,
    *,
    n: int = 64,
    fix: bool = False,
    chat_template: str | None = None,
    engine: EngineKind | None = None,
    seed: int = 42,
    on_progress: ProgressCallback | None = None,
) -> Diagnosis:
    """Derive the chat format of `model`, sample `n` instructions from it, and say whether they are good enough.

    With `n` 0 only the format is checked, which needs a tokenizer and no weights. `fix` tries out the changes that may
    help: it samples `n` rows for each of them, and for all of them together, and keeps those that measurably helped.
    `chat_template` and `engine` replace those of the model.

    Raises ModelError when the model cannot be found or loaded, EngineError when the engine is lost, and ChatFormatError
    when the model has no usable chat template: the message names one that fits its tokenizer.
    """
    if n < 0:
        raise RecipeError(f"cannot sample {n} instructions; give 0 for the format alone, or more")
    if isinstance(model, str):
        model = Model(model=model, context_length=_CONTEXT)
    settings = {"engine": engine, "chat_template": chat_template}
    model = model.model_copy(update={name: value for name, value in settings.items() if value is not None})
    on_progress = on_progress or no_progress
    on_progress(f"reading the chat format of {model.model}", 0, 0)
    chat = _format(model)
    recipe = sampling_recipe("doctor", model, INSTRUCT, seed=seed)
    family = compare(chat.texts, chat.tokenizer)
    advisor = for_model(model.model) or (None if family is None else family.family)
    advice = () if advisor is None or advisor.advice is None else advisor.advice.lines()
    diagnosis = Diagnosis(
        model=model.model,
        format=chat.describe()
        | {"post_query_ids": list(chat.post_query_ids), "next_turn_ids": list(chat.next_turn_ids)},
        verdict="format ready: derived and checked; run without --no-sample to measure what the model writes",
        family=family,
        advisor=None if advisor is None else advisor.name,
        advice=differing(recipe, advice),
    )
    return diagnosis if n == 0 else run_to_end(_with_sample(diagnosis, recipe, n, on_progress, fix=fix))


async def _with_sample(
    diagnosis: Diagnosis, recipe: Recipe, count: int, on_progress: ProgressCallback, *, fix: bool
) -> Diagnosis:
    async with Sampler(on_progress) as sampler:
        written = await sampler.write(recipe, count)
        sample = measure(written)
        sense = await _sense(sampler, recipe, written, on_progress)
        verdict, changes = judge(sample, written.chat)
        trials: tuple[Trial, ...] = ()
        if fix:
            lines, more = propose(sample, written.chat) if has_problems(sample) else ((), ())
            trials = await try_out(sampler, recipe, sample, _worth_trying(lines, diagnosis.advice))
            verdict, changes = judge_trials(sample, trials, more)
        if not sense.is_ready:
            asked = await try_asking(sampler, recipe, sample)
            trials = (*trials, asked)
            verdict, changes = judge_by_sense(verdict, changes, sample, sense, asked)
    on_progress("comparing", 0, 0)
    tables = [written.rows, *(trial.written.rows for trial in trials if trial.written is not None)]
    near = await neighbors(recipe, tables)
    measured = () if isinstance(near, str) else near
    return replace(
        diagnosis,
        verdict=verdict,
        changes=changes,
        sample=sample,
        neighbors=measured[0] if measured else None,
        no_neighbors=near if isinstance(near, str) else None,
        trials=with_neighbors(trials, measured[1:]),
        sense=sense,
    )


async def _sense(sampler: Sampler, recipe: Recipe, written: Written, on_progress: ProgressCallback) -> Sense:
    """Whether the sample reads as messages of users, and whether the model ends and answers them."""
    if not find_engine(recipe.model(recipe.instruct.model).engine).capabilities.loads_weights:
        return Sense(Mean.share(0, 0), why_not="no model wrote these texts")
    endless = recipe.instruct.model_copy(update={"stop_at_newline": False})
    count = min(written.rows.num_rows, _ENDLESS)
    longer = await sampler.write(
        recipe.with_sections(instruct=endless), count, what="sampling without a stop at the line break"
    )
    ended = ended_share(longer.rows["instruct_finish_reason"].to_pylist())
    answered = written.rows.slice(0, _ENDLESS)
    if len(texts_to_read(written.rows)) >= FEWEST:  # of fewer nothing is read, and no answer either
        answered = await sampler.answer(recipe, answered)
    on_progress("reading for sense", 0, 0)
    return await asyncio.to_thread(read_sense, written.rows, ended=ended, answers=answers_to_read(answered))


def _worth_trying(changes: tuple[str, ...], advice: tuple[str, ...]) -> tuple[str, ...]:
    """The lines to try: `changes`, which are against problems of the sample, then advice on other settings."""
    changed = [line.partition(": ")[0] for line in changes]
    further = (
        line
        for line in advice
        # A trial samples no responses, so advice on them cannot be tried.
        if line.startswith(("instruct.", "clean."))
        and not any(path.startswith(line.partition(": ")[0]) for path in changed)
    )
    return (*changes, *further)


def _format(model: Model) -> ChatFormat:
    try:
        return BuildTools().chat(model)
    except ChatFormatError as error:
        if model.chat_template is not None:
            raise
        tokenizer = ModelTokenizer(
            models.resolve(model, weights=False).path,
            name=model.model,
            trust_remote_code=model.trust_remote_code,
        )
        advice = "".join(
            f"; try `magpie doctor {model.model} --chat-template {name}`" for name in fitting(tokenizer)[:1]
        )
        raise ChatFormatError(f"{error}{advice}") from error
