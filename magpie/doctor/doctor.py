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

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from magpie import models
from magpie.chat import ChatFormat
from magpie.chat.families import compare, fitting, for_model
from magpie.chat.tokenizer import ModelTokenizer
from magpie.doctor.measures import PROBLEMS, Neighbors, Sample, measure
from magpie.doctor.sampling import Sampler, neighbors, sampling_recipe
from magpie.doctor.trials import Trial, differing, judge_trials, neighbors_json, try_out, with_neighbors
from magpie.doctor.verdict import is_troubled, judge, propose
from magpie.errors import ChatFormatError, RecipeError
from magpie.plan.fingerprints import chat_format
from magpie.recipe import Draw, EngineKind, Instruct, Model
from magpie.report.text import as_text

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.chat.families import Comparison
    from magpie.doctor.sampling import Tell
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
    on_progress: Tell | None = None,
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
    tell = on_progress or (lambda *_: None)
    tell(f"reading the chat format of {model.model}", 0, 0)
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
    return found if n == 0 else asyncio.run(_sampled(found, recipe, n, tell, fix=fix))


async def _sampled(found: Diagnosis, recipe: Recipe, count: int, tell: Tell, *, fix: bool) -> Diagnosis:
    async with Sampler(tell) as sampler:
        written = await sampler.write(recipe, count)
        sample = measure(written.rows, written.chat, seconds=written.seconds, keep=written.keep)
        verdict, changes = judge(sample, written.chat)
        trials: tuple[Trial, ...] = ()
        if fix:
            lines, more = propose(sample, written.chat) if is_troubled(sample) else ((), ())
            trials = await try_out(sampler, recipe, sample, _lines(lines, found.advice))
            verdict, changes = judge_trials(sample, trials, more)
    tell("comparing", 0, 0)
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
        return chat_format(model)
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


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the format, the rates with examples, what was tried, and the verdict with what to change."""
    _print_format(diagnosis, console)
    for warning in diagnosis.warnings:
        console.print(Text("note ", "yellow").append_text(as_text(warning, "default")))
    for line in diagnosis.advice:
        advice = f"for {diagnosis.advisor} models: {line}"
        console.print(Text("advice ", "yellow").append_text(as_text(advice, "default")))
    if diagnosis.sample is not None:
        _print_sample(diagnosis, diagnosis.sample, console)
    if diagnosis.trials:
        _print_trials(diagnosis, console)
    good = diagnosis.verdict.startswith(("ready", "format ready"))
    style = "bold green" if good else "bold red" if diagnosis.verdict.startswith("not") else "bold yellow"
    console.print(as_text(f"\n{diagnosis.verdict}", style))


def _print_format(diagnosis: Diagnosis, console: Console) -> None:
    """The texts and their ids, and what a family file has in their place where it differs."""
    found, family = diagnosis.format, diagnosis.family
    table = Table(title=as_text(diagnosis.model), title_justify="left", title_style="bold", box=None)
    table.add_column("", style="cyan", no_wrap=True)
    for heading in ("text", "ids"):
        table.add_column(heading, overflow="fold", justify="left", ratio=1)
    for name in ("pre_query", "post_query", "next_turn"):
        table.add_row(name, as_text(repr(found[name])), " ".join(map(str, found[f"{name}_ids"])))
    table.add_row("stop_ids", "", " ".join(map(str, found["stop_ids"])))
    table.add_row("source", as_text(found["source"]), "")
    console.print(table)
    if family is None:
        return
    name = family.family.name
    if not family.differences:
        console.print(f"the same as templates/chat/{name}.yaml", highlight=False)
    for what, derived, published in family.differences:
        console.print(f"{what} is not that of templates/chat/{name}.yaml:", highlight=False)
        for label, text in (("derived", derived), (name, published)):
            console.print(Padding(as_text(f"{label}: {text!r}"), (0, 0, 0, 2)))


def _print_sample(diagnosis: Diagnosis, sample: Sample, console: Console) -> None:
    console.print(
        f"\n{sample.rows} instructions, half of them over {sample.median_tokens:g} tokens; "
        f"{sample.tokens_per_second:,.0f} tokens/s",
        highlight=False,
    )
    for name in ("valid", *PROBLEMS):
        console.print(f"  {name:<9}{sample.rates[name]:>7.1%}", highlight=False)
        for example in sample.examples.get(name, ()):
            console.print(Padding(as_text(example, "dim"), (0, 0, 0, 4)))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in sample.languages.items())
    expected = f"expected {', '.join(sample.expected)}, {sample.expected_from}"
    console.print(f"languages {shares or 'none'} ({expected})", highlight=False)
    console.print(
        f"distinct first words {sample.distinct_first_words:.2f} a row, words {sample.distinct_1:.2f}, "
        f"pairs of words {sample.distinct_2:.2f}",
        highlight=False,
    )
    near = diagnosis.neighbors
    if near is not None:
        console.print(
            f"nearest neighbours {near.distance.value:.3f} ± {near.distance.error:.3f} apart, "
            f"{near.duplicates.value:.1%} duplicates",
            highlight=False,
        )
    elif diagnosis.no_neighbors is not None:
        console.print(as_text(f"nearest neighbours not measured: {diagnosis.no_neighbors}"))


def _print_trials(diagnosis: Diagnosis, console: Console) -> None:
    table = Table(title="tried", title_justify="left", box=None)
    headings = ("valid", *PROBLEMS, "tokens", "apart")
    for heading in ("", *headings, ""):
        table.add_column(heading, justify="right" if heading in headings else "left", overflow="fold")
    before = Trial((), diagnosis.sample, neighbors=diagnosis.neighbors)
    for trial in (before, *diagnosis.trials):
        name = as_text("\n".join(trial.changes) or "as sampled")
        if trial.sample is None:
            table.add_row(name, *[""] * len(headings), as_text(f"refused: {trial.problem}"))
            continue
        rates = [f"{trial.sample.rates[problem]:.0%}" for problem in ("valid", *PROBLEMS)]
        apart = "" if trial.neighbors is None else f"{trial.neighbors.distance.value:.3f}"
        said = "" if trial is before else "helped" if trial.helped else "no help"
        table.add_row(name, *rates, f"{trial.sample.median_tokens:g}", apart, said)
    console.print(table)
