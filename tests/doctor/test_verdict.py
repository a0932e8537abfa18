from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb

import pytest
from samples import CHAT, rates

from magpie.chat import ChatFormat
from magpie.chat.families import load_template
from magpie.doctor.measures import Sample
from magpie.doctor.verdict import helped, judge
from magpie.engines.scripted import ScriptedTokenizer
from magpie.recipe.loading import load_recipe, parse_value


@pytest.mark.parametrize(
    ("sample", "begins", "changes"),
    [
        (rates(), "ready", []),
        (rates(cut=0.19), "ready", []),
        (rates(leaked=0.07), "usable with", ["instruct.mix.0.temperature: 0.8"]),
        (rates(cut=0.3), "usable with", ["instruct.max_tokens: 1024"]),
        (rates(empty=0.3), "usable with", ["instruct.stop_at_newline: false"]),
        (rates(repeated=0.4), "usable with", ["instruct.mix.0.temperature: 1.2"]),
        (rates(looping=0.4), "usable with", ["instruct.mix.0.temperature: 1.2"]),
        (rates(leaked=0.1, looping=0.3), "usable with", ["instruct.mix.0.temperature: 0.8"]),
        (rates(language=0.3), "usable with", []),
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


def test_other_languages_are_for_a_person_to_want_or_not() -> None:
    assert "language.keep (seen: en 70%, zh 30%)" in judge(rates(language=0.3), CHAT)[0]


def test_a_format_that_is_not_the_models_wants_another_template() -> None:
    class LlamaWords(ScriptedTokenizer):
        def render(self, messages, *, add_generation_prompt):  # type: ignore[no-untyped-def]
            turns = "".join(f"### {turn['role']}:\n{turn['content']}<|im_end|>\n" for turn in messages)
            return turns + ("### assistant:\n" if add_generation_prompt else "")

    verdict, lines = judge(rates(leaked=0.7), ChatFormat.derive(LlamaWords()))
    assert verdict.startswith("not usable")
    (line,) = lines
    path, _, name = line.partition(": ")
    assert path == "models.generator.chat_template"
    assert "<|im_start|>user" in load_template(name).next_turn
    load_recipe("demo", overrides={path: name})


@pytest.mark.parametrize(("better", "worse"), list(product(range(9), repeat=2)))
def test_what_helped_is_more_than_chance(better: int, worse: int) -> None:
    same = rates()
    before = replace(same, valid_rows=(False,) * better + (True,) * worse + (True,) * 20)
    after = replace(same, valid_rows=(True,) * better + (False,) * worse + (True,) * 20)
    flips = better + worse
    chance = sum(comb(flips, heads) for heads in range(better, flips + 1)) / 2**flips
    assert helped(before, after) == (chance < 0.05)
    assert helped(before, after) == ((better, worse) in {(5, 0), (6, 0), (7, 0), (8, 0), (7, 1), (8, 1)})
