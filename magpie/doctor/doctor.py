"""Can this model write instructions? Its chat format, a sample of what it writes, and what to change.

The sample goes through the very steps a build runs, `instruct`, `clean` and `language`, at temperature 1.0, top_p 1.0,
at most 256 tokens and to the first newline. `measures.py` says what is counted, `verdict.py` what makes a model ready
or usable, and `fix.py` how a change is tried out.
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
from magpie.doctor.measures import Neighbors, Sample, measure
from magpie.doctor.sampling import Sampler, neighbors, sampling_recipe
from magpie.doctor.trials import Trial, differing, judge_trials, neighbors_json, try_out, with_neighbors
from magpie.doctor.verdict import is_troubled, judge, propose
from magpie.errors import ChatFormatError, RecipeError
from magpie.neighbors.vectors import no_progress
from magpie.plan import BuildTools
from magpie.recipe import Draw, EngineKind, Instruct, Model

if TYPE_CHECKING:
    from magpie.chat.families import Comparison
    from magpie.neighbors.vectors import ProgressCallback
    from magpie.recipe import Recipe

INSTRUCT = Instruct(mix=(Draw(temperature=1.0, top_p=1.0),), max_tokens=256, stop_at_newline=True)
"""What doctor samples with."""

_CONTEXT = 2048  # room for any pre-query and 1024 tokens, and no more memory than that


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found. `format` is `ChatFormat.describe()` and the ids of all three texts.

    `family` is the file of templates/chat that the format was held against, None where none is near. `advice` are
    recipe lines that differ from what was sampled, and `advisor` names the family they are for: the one that the
    model's name says, or else that one. `sample` is None when nothing was sampled; `neighbors` are None as well where
    the embedder is not there, and `no_neighbors` says why. `trials` are there when changes were tried.

    `verdict` begins with "ready", "usable with: " or "not usable: ", or says that only the format was checked.
    `changes` are lines for the recipe, paths as `--set` takes them.
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

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual about the format."""
        return tuple(self.format["warnings"])

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON can hold it, the format's keys first."""
        found: dict[str, Any] = {"model": self.model, **self.format, "family": None}
        if self.family is not None:
            found["family"] = {
                "name": self.family.family.name,
                "differences": [list(difference) for difference in self.family.differences],
            }
        found |= {
            "verdict": self.verdict,
            "changes": list(self.changes),
            "advice": list(self.advice),
            "advisor": self.advisor,
        }
        if self.sample is not None:
            found |= self.sample.to_json() | neighbors_json(self.neighbors)
            found["no_neighbors"] = self.no_neighbors
        if self.trials:
            found["trials"] = [trial.to_json() for trial in self.trials]
        return found


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
    """Derive the format of `model`, sample `n` instructions from it, and judge them.

    `n` 0 looks at the format alone, which needs only a tokenizer. `fix` samples again, `n` rows for each change that
    might help and for all of them together, on the engine that is loaded, and keeps what measurably helped.
    `chat_template` and `engine` take the place of the model's own.
    `on_progress` is told what is being done, how much of it is done, and of how much.

    Raises ModelError when the model is not there, ChatFormatError when it has no usable chat template: then the message
    names the templates that fit its tokenizer.
    """
    if n < 0:
        raise RecipeError(f"cannot sample {n} instructions; give 0 for the format alone, or more")
    if isinstance(model, str):
        model = Model(model=model, context_length=_CONTEXT)
    given = {"engine": engine, "chat_template": chat_template}
    model = model.model_copy(update={name: value for name, value in given.items() if value is not None})
    on_progress = on_progress or no_progress
    on_progress(f"reading the chat format of {model.model}", 0, 0)
    chat = _format(model)
    recipe = sampling_recipe("doctor", model, INSTRUCT, seed=seed)
    family = compare(chat.texts, chat.tokenizer)
    advisor = for_model(model.model) or (None if family is None else family.family)
    advice = () if advisor is None or advisor.advice is None else advisor.advice.lines()
    found = Diagnosis(
        model=model.model,
        format=chat.describe()
        | {"post_query_ids": list(chat.post_query_ids), "next_turn_ids": list(chat.next_turn_ids)},
        verdict="format ready: derived and checked; run without --no-sample to measure what the model writes",
        family=family,
        advisor=None if advisor is None else advisor.name,
        advice=differing(recipe, advice),
    )
    return found if n == 0 else asyncio.run(_sampled(found, recipe, n, on_progress, fix=fix))


async def _sampled(
    found: Diagnosis, recipe: Recipe, count: int, on_progress: ProgressCallback, *, fix: bool
) -> Diagnosis:
    async with Sampler(on_progress) as sampler:
        written = await sampler.write(recipe, count)
        sample = measure(written)
        verdict, changes = judge(sample, written.chat)
        trials: tuple[Trial, ...] = ()
        if fix:
            lines, more = propose(sample, written.chat) if is_troubled(sample) else ((), ())
            trials = await try_out(sampler, recipe, sample, _lines(lines, found.advice))
            verdict, changes = judge_trials(sample, trials, more)
    on_progress("comparing", 0, 0)
    tables = [written.rows, *(trial.written.rows for trial in trials if trial.written is not None)]
    near = await neighbors(recipe, tables)
    known = () if isinstance(near, str) else near
    return replace(
        found,
        verdict=verdict,
        changes=changes,
        sample=sample,
        neighbors=known[0] if known else None,
        no_neighbors=near if isinstance(near, str) else None,
        trials=with_neighbors(trials, known[1:]),
    )


def _lines(changes: tuple[str, ...], advice: tuple[str, ...]) -> tuple[str, ...]:
    """What is worth a try: lines against what was seen, then what the family advises of other settings.

    Advice on responses is none of it: no response is sampled.
    """
    taken = [line.partition(": ")[0] for line in changes]
    further = (
        line
        for line in advice
        if line.startswith(("instruct.", "clean."))
        and not any(path.startswith(line.partition(": ")[0]) for path in taken)
    )
    return (*changes, *further)


def _format(model: Model) -> ChatFormat:
    try:
        return BuildTools().chat(model)
    except ChatFormatError as error:
        if model.chat_template is not None:
            raise
        own = ModelTokenizer(
            models.resolve(model, weights=False).path,
            name=model.model,
            trust_remote_code=model.trust_remote_code,
        )
        way_on = "".join(
            f"; try `magpie doctor {model.model} --chat-template {name}`" for name in fitting(own)[:1]
        )
        raise ChatFormatError(f"{error}{way_on}") from error
