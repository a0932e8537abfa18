"""Can this model write instructions? Its chat format, a sample of what it writes, and what to change.

The sample goes through the very steps a build runs, `instruct` and `clean`, at temperature 1.0, top_p 1.0, at most 256
tokens and to the first newline. Each row is counted once, by its deepest trouble: a role header or special token leaked
into it, it is empty, it repeats an earlier row or itself, it was cut by length, or `clean` rejected it for another
reason; else it is valid.

`ready` needs `READY`, 80 % of rows valid: a build then pays for 1.25 instructions to keep one, and less is worth a
change of settings. Below `USABLE`, 40 %, it pays for more than 2.5, before deduplication and the filter take theirs;
the model does not know its format, or does not write instructions. A problem is named from `NAMED`, 5 % of rows, up:
one of 64 draws is 1.6 %, so that fewer than four are noise. `LEAKED` is the same 5 %, and keeps a model from being
ready by itself, since what leaks is a sign that the format is not the model's, and such rows look whole to a reader.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from magpie.engines import open_engine
from magpie.errors import EngineError, RecipeError
from magpie.recipe import Clean, Draw, EngineKind, Instruct, Model
from magpie.report.base import as_text, one_line
from magpie.runs.identity import chat_format
from magpie.steps.clean import CUT, EMPTY, LOOPING, NO_WORDS, ROLE_HEADER, CleanStep, is_looping
from magpie.steps.instruct import InstructStep

if TYPE_CHECKING:
    from rich.console import Console

    from magpie.chat import ChatFormat
    from magpie.engines.base import Completion, Engine, ModelInfo, Sampling

READY = 0.80
USABLE = 0.40
NAMED = 0.05
LEAKED = 0.05

PROBLEMS = ("leaked", "empty", "repeated", "cut", "other")
_EXAMPLES = 3
_INSTRUCT = Instruct(mix=(Draw(temperature=1.0, top_p=1.0),), max_tokens=256, stop_at_newline=True)
_CONTEXT = 2048  # room for any pre-query and 256 tokens, and no more memory than that
_MOST_LEAKED, _MOST_EMPTY = (
    0.30,
    0.50,
)  # above either, cooler draws do not help: the format is not the model's


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model wrote. `rates` are shares of `rows`, one for each of `PROBLEMS` and `valid`, and add up to 1.

    `median_tokens` is the length of an instruction. `tokens_per_second` counts all that was generated, over the time it
    took, loading left out; so few requests do not fill a GPU. `examples` holds up to three texts of each problem.
    """

    rows: int
    rates: Mapping[str, float]
    median_tokens: float
    tokens_per_second: float
    examples: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What doctor found. `format` is `ChatFormat.describe()`; `sample` is None when nothing was sampled.

    `verdict` begins with "ready", "usable with: " or "not usable: ", or says that only the format was checked.
    `changes` are lines for the recipe, paths as `--set` takes them.
    """

    model: str
    format: Mapping[str, Any]
    verdict: str
    changes: tuple[str, ...] = ()
    sample: Sample | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual about the format."""
        return tuple(self.format["warnings"])

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON can hold it, the format's keys first."""
        found = {"model": self.model, **self.format, "verdict": self.verdict, "changes": list(self.changes)}
        if self.sample is not None:
            found |= {
                "sampled": self.sample.rows,
                "rates": dict(self.sample.rates),
                "median_tokens": self.sample.median_tokens,
                "tokens_per_second": round(self.sample.tokens_per_second, 1),
                "examples": {problem: list(texts) for problem, texts in self.sample.examples.items()},
            }
        return found


def examine(
    model: str | Model,
    *,
    sample: int = 64,
    engine: EngineKind | None = None,
    seed: int = 42,
    on_progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Derive the format of `model`, sample instructions from it, and judge them.

    `sample` 0 looks at the format alone, which needs only a tokenizer. `on_progress` is told, in a few words, what is
    being done. Raises ModelError when the model is not there, ChatFormatError when it has no usable chat template.
    """
    if sample < 0:
        raise RecipeError(f"cannot sample {sample} instructions; give 0 for the format alone, or more")
    if isinstance(model, str):
        model = Model(model=model, context_length=_CONTEXT)
    if engine is not None:
        model = model.model_copy(update={"engine": engine})
    say = on_progress or (lambda _: None)
    say(f"reading the chat format of {model.model}")
    chat = chat_format(model)
    if sample == 0:
        verdict = (
            "format ready: derived and checked; run without --no-sample to measure what the model writes"
        )
        return Diagnosis(model.model, chat.describe(), verdict)
    rows, seconds = asyncio.run(_write(model, chat, sample, seed, say))
    found = measure(rows, chat, seconds=seconds)
    verdict, changes = judge(found, chat)
    return Diagnosis(model.model, chat.describe(), verdict, changes, found)


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the format, the rates with examples, and the verdict with what to change."""
    facts = Table(
        title=as_text(diagnosis.model), title_justify="left", title_style="bold", box=None, show_header=False
    )
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in diagnosis.format.items():
        if name != "warnings":
            facts.add_row(name, as_text(_quoted(value)))
    console.print(facts)
    for warning in diagnosis.warnings:
        console.print(Text("note ", "yellow").append_text(as_text(warning, "default")))
    if diagnosis.sample is not None:
        _print_sample(diagnosis.sample, console)
    good = diagnosis.verdict.startswith(("ready", "format ready"))
    style = "bold green" if good else "bold red" if diagnosis.verdict.startswith("not") else "bold yellow"
    console.print(as_text(f"\n{diagnosis.verdict}", style))


def _print_sample(sample: Sample, console: Console) -> None:
    console.print(
        f"\n{sample.rows} instructions, half of them over {sample.median_tokens:g} tokens; "
        f"{sample.tokens_per_second:,.0f} tokens/s",
        highlight=False,
    )
    for name in ("valid", *PROBLEMS):
        console.print(f"  {name:<9}{sample.rates[name]:>7.1%}", highlight=False)
        for example in sample.examples.get(name, ()):
            console.print(Padding(as_text(example, "dim"), (0, 0, 0, 4)))


@dataclass(slots=True)
class _Counting:
    """The engine, telling how many of the completions are back."""

    engine: Engine
    total: int
    say: Callable[[str], None]
    back: int = field(default=0)

    @property
    def model(self) -> ModelInfo:
        return self.engine.model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        completion = await self.engine.complete(prompt, sampling)
        self.back += 1
        self.say(f"sampled {self.back} of {self.total}")
        return completion

    async def close(self) -> None:
        await self.engine.close()


async def _write(
    model: Model, chat: ChatFormat, count: int, seed: int, say: Callable[[str], None]
) -> tuple[pa.Table, float]:
    """What `instruct` and `clean` make of `count` rows, and the seconds that writing took."""
    rows = pa.table(
        {
            "id": [f"doctor-{index:08d}" for index in range(count)],
            "index": pa.array(range(count), pa.int64()),
            "rejected": pa.nulls(count, pa.string()),
        }
    )
    say(f"loading {model.model}")
    engine = await open_engine(model)
    try:
        began = time.perf_counter()
        written = await InstructStep(_INSTRUCT, seed).with_chat(chat).run(rows, _Counting(engine, count, say))
        seconds = time.perf_counter() - began
    finally:
        with suppress(EngineError):
            await engine.close()
    rows = _beside(rows, written)
    cleaned = await CleanStep(Clean()).with_chat(chat).run(rows, None)
    return _beside(rows, cleaned), seconds


def _beside(rows: pa.Table, more: pa.Table) -> pa.Table:
    kept = [name for name in rows.column_names if name not in more.column_names]
    return pa.table(
        {**{name: more[name] for name in more.column_names}, **{name: rows[name] for name in kept}}
    )


def measure(rows: pa.Table, chat: ChatFormat, *, seconds: float) -> Sample:
    """The rates of rows that went through `instruct`, in so many seconds, and `clean`."""
    texts: dict[str, list[str]] = {name: [] for name in ("valid", *PROBLEMS)}
    seen: set[str] = set()
    for row in rows.to_pylist():
        problem = _problem(row, chat, seen)
        text = one_line(row["raw_instruction"]) or "(nothing)"
        if problem == "other":
            why = row["instruct_error"] or row["rejected"].removeprefix("clean: ")
            text = one_line(f"({why}) {text}")
        texts[problem].append(text)
        if row["instruction"] is not None:
            seen.add(row["instruction"].casefold())
    tokens = rows["instruct_tokens"].to_pylist()
    return Sample(
        rows=rows.num_rows,
        rates={name: len(found) / rows.num_rows for name, found in texts.items()},
        median_tokens=statistics.median(tokens),
        tokens_per_second=sum(tokens) / max(seconds, 1e-9),
        examples={name: tuple(found[:_EXAMPLES]) for name, found in texts.items() if found},
    )


def _problem(row: Mapping[str, Any], chat: ChatFormat, seen: set[str]) -> str:
    """The one of `PROBLEMS` that a row has, or "valid"."""
    reason, raw = row["rejected"], row["raw_instruction"]
    if reason is None:
        return "repeated" if row["instruction"].casefold() in seen else "valid"
    if reason == ROLE_HEADER or (reason == CUT and any(leak in raw for leak in chat.leaks)):
        return "leaked"
    if reason == LOOPING or (reason == CUT and is_looping(raw)):
        return "repeated"
    return {EMPTY: "empty", NO_WORDS: "empty", CUT: "cut"}.get(reason, "other")


def judge(sample: Sample, chat: ChatFormat) -> tuple[str, tuple[str, ...]]:
    """The verdict on a sample, and the recipe lines it asks for."""
    rates = sample.rates
    if rates["valid"] >= READY and rates["leaked"] <= LEAKED:
        return f"ready: {rates['valid']:.0%} of {sample.rows} instructions are whole", ()
    named = [name for name in PROBLEMS if rates[name] >= NAMED]
    named = sorted(named or PROBLEMS, key=lambda name: -rates[name])[: len(named) or 1]
    changes, more = _changes(named, rates, chat)
    what = ", ".join(f"{rates[name]:.0%} {name}" for name in named)
    advice = "; ".join([*changes, *more])
    if rates["valid"] < USABLE:
        found = f"not usable: only {rates['valid']:.0%} of {sample.rows} instructions are whole ({what})"
        return f"{found}; try {advice}; or take another instruction-tuned model", changes
    return f"usable with: {advice} ({what})", changes


def _changes(
    named: Sequence[str], rates: Mapping[str, float], chat: ChatFormat
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Recipe lines against the problems named, one for a setting, and advice that is no recipe line."""
    lines: dict[str, str] = {}
    more = []
    if rates["leaked"] > _MOST_LEAKED or rates["empty"] > _MOST_EMPTY:
        if "<|im_start|>" in chat.tokenizer.special_tokens and "<|im_start|>user" not in chat.pre_query:
            lines["models.generator.chat_template"] = "chatml"
        else:
            more.append("the template the model was trained with, as models.generator.chat_template")
    elif "leaked" in named:
        lines["instruct.mix.0.temperature"] = "0.8"
    if "empty" in named:
        lines["instruct.stop_at_newline"] = "false"
    if "cut" in named:
        lines["instruct.max_tokens"] = "1024"
    if "repeated" in named:
        lines.setdefault("instruct.mix.0.temperature", "1.2")
    if "other" in named:
        more.append("the settings of `clean`, after a look at the examples it rejects")
    return tuple(f"{path}: {value}" for path, value in lines.items()), tuple(more)


def _quoted(value: Any) -> str:
    return repr(value) if isinstance(value, str) else ", ".join(map(str, value))
