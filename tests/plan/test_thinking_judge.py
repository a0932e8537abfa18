"""A judge that would reason first: its template is told not to let it, or it is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from builds import small_recipe, small_self_instruct
from tokenizers_made import CHATML, real_tokenizer, small

from magpie.errors import ChatFormatError
from magpie.plan import BuildTools, bind, make_plan
from magpie.plan.tools import model_key
from magpie.recipe import Model
from magpie.steps.tag import TagStep

PLAIN = CHATML.partition("{% if add_generation_prompt")[0]
OPENS = PLAIN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
SWITCHED = PLAIN + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)


def judge(model: Model) -> TagStep:
    """The tag step of a recipe whose judge this is."""
    models = {"generator": "scripted", "judge": model.model_dump(mode="json"), "embedder": "scripted"}
    steps = [run_step.step for run_step in make_plan(small_recipe(models=models)).steps]
    return next(step for step in steps if isinstance(step, TagStep))


def header(model: Model) -> str:
    """The assistant's header that the judge is given."""
    step, tools = judge(model), BuildTools()
    step.bind(tools)
    return tools.chat(step.uses.model).post_query


@pytest.mark.parametrize("thinking", ["strip", "keep", "off"])
def test_a_switch_is_turned_whatever_the_recipe_says_of_responses(tmp_path: Path, thinking: str) -> None:
    model = Model(model=small(tmp_path, SWITCHED), engine="vllm").model_copy(update={"thinking": thinking})
    assert header(model).endswith("assistant\n<think>\n\n</think>\n\n")
    as_generator = BuildTools().chat(model).post_query
    assert as_generator.endswith("</think>\n\n" if thinking == "off" else "assistant\n<think>\n")


def test_qwen3_answers_past_its_thoughts() -> None:
    model = Model(model=real_tokenizer("qwen3"), engine="vllm")
    assert header(model).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("thinking", ["strip", "off"])
def test_a_judge_that_can_only_answer_after_a_thought_is_refused(tmp_path: Path, thinking: str) -> None:
    model = Model(model=small(tmp_path / "tokenizer", OPENS), engine="vllm").model_copy(
        update={"thinking": thinking}
    )
    with pytest.raises(
        ChatFormatError, match=r"cannot judge.*thinking block.*; name another model as the judge"
    ):
        header(model)
    models = {"generator": "scripted", "judge": model.model_dump(mode="json"), "embedder": "scripted"}
    with pytest.raises(ChatFormatError, match="cannot judge"):
        bind(make_plan(small_recipe(models=models)), BuildTools())


@pytest.mark.parametrize(("section", "role"), [("review", "judge"), ("refine", "refiner")])
def test_whoever_answers_in_json_is_refused_for_the_same_reason(
    tmp_path: Path, section: str, role: str
) -> None:
    """`thinking: strip`, which the chat format names, would help a generator and not them."""
    model = Model(model=small(tmp_path, OPENS), engine="vllm").model_dump(mode="json")
    recipe = small_self_instruct(
        **{section: {"model": "other"}}, models={"generator": "scripted", "other": model}
    )
    with pytest.raises(ChatFormatError, match=f"cannot .*thinking block.*; name another model as the {role}"):
        bind(make_plan(recipe), BuildTools())


def test_what_else_is_wrong_with_a_judge_s_template_is_said_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match="has no chat template"):
        header(Model(model=small(tmp_path, None), engine="vllm"))


def test_a_model_without_reasoning_is_spoken_to_as_before(tmp_path: Path) -> None:
    model = Model(model=small(tmp_path, CHATML), engine="vllm")
    spoken_to, tools = judge(model).uses.model, BuildTools()
    assert tools.chat(spoken_to) == tools.chat(model)
    assert model_key(spoken_to) != model_key(model)
