"""Families: every file of templates/chat is sound, is found, is what real tokenizers say, and advises what runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from magpie import shipped
from magpie.chat import ChatFormat
from magpie.chat.families import (
    Advice,
    ChatTemplate,
    Comparison,
    FamilyTokenizer,
    compare,
    fitting,
    for_model,
    list_templates,
    load_template,
)
from magpie.chat.template import read_texts
from magpie.chat.tokenizer import TEMPLATE_DATE, ModelTokenizer
from magpie.errors import ChatFormatError, RecipeError
from magpie.recipe.loading import load_recipe, parse_value

TALK = ("Name a bird.", "The wren.", "And another.")
FAMILIES = list_templates()
BY_NAME = {template.name: template for template in FAMILIES}
BESIDE = Path(__file__).parents[3] / "shared" / "tokenizers"
HUB_NAMES = {
    "meta-llama/Llama-2-7b-chat-hf": "llama2",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama3",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1",
    "meta-llama/Meta-Llama-3.1-405B-Instruct-FP8": "llama3.1",
    "meta-llama/Llama-3.2-1B-Instruct": "llama3.2",
    "meta-llama/Llama-3.3-70B-Instruct": "llama3.3",
    "Qwen/Qwen1.5-7B-Chat": "qwen1.5",
    "Qwen/Qwen2-72B-Instruct": "qwen2",
    "Qwen/Qwen2-57B-A14B-Instruct": "qwen2",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2.5",
    "Qwen/Qwen2.5-Coder-32B-Instruct": "qwen2.5",
    "Qwen/Qwen2.5-Math-7B-Instruct": "qwen2.5-math",
    "Qwen/Qwen3-0.6B": "qwen3",
    "Qwen/Qwen3-30B-A3B": "qwen3",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3-2507",
    "google/gemma-1.1-7b-it": "gemma2",
    "google/gemma-2-9b-it": "gemma2",
    "google/gemma-3-4b-it": "gemma3",
    "microsoft/Phi-3-mini-4k-instruct": "phi3",
    "microsoft/Phi-3-small-8k-instruct": "phi3-small",
    "microsoft/Phi-3.5-mini-instruct": "phi3",
    "microsoft/phi-4": "phi4",
    "microsoft/Phi-4-mini-instruct": "phi4-mini",
    "mistralai/Mistral-7B-Instruct-v0.1": "mistral-v1",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-v1",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-v3",
    "mistralai/Mistral-Nemo-Instruct-2407": "mistral-tekken",
    "01-ai/Yi-1.5-34B-Chat": "yi1.5",
    "deepseek-ai/DeepSeek-V2-Lite-Chat": "deepseek-v2",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "lmsys/vicuna-7b-v1.5": "vicuna",
    "HuggingFaceH4/zephyr-7b-beta": "zephyr",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "smollm2",
    "allenai/OLMo-2-1124-7B-Instruct": "olmo2",
    "ibm-granite/granite-3.0-8b-instruct": "granite3.0",
    "ibm-granite/granite-3.3-2b-instruct": "granite3.1",
    "CohereForAI/c4ai-command-r-plus": "command-r",
    "openai/gpt-oss-20b": "gpt-oss",
    "google/gemma-4-31B-it": "gemma4",
    "Qwen/Qwen3.5-4B": "qwen3.5",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama4",
    "ibm-granite/granite-4.0-h-tiny": "granite4.0",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": "mistral-small-3.1",
    "zai-org/GLM-4.6": "glm4.6",
    "zai-org/GLM-4.5-Air": "glm4.6",
    "allenai/Olmo-3-7B-Instruct": "olmo3",
    "allenai/Olmo-3.1-32B-Instruct": "olmo3.1",
    "HuggingFaceTB/SmolLM3-3B": "smollm3",
}
WRITTEN = {
    "llama2": "<s>[INST] Name a bird. [/INST] The wren. </s><s>[INST] And another. [/INST]",
    "mistral-v1": "<s> [INST] Name a bird. [/INST] The wren.</s> [INST] And another. [/INST]",
    "mistral-v3": "<s>[INST] Name a bird.[/INST] The wren.</s>[INST] And another.[/INST]",
    "mistral-tekken": "<s>[INST]Name a bird.[/INST]The wren.</s>[INST]And another.[/INST]",
    "deepseek-v2": "<s>User: Name a bird.\n\nAssistant: The wren.</s>User: And another.\n\nAssistant:",
    "deepseek-v3": "<s><｜User｜>Name a bird.<｜Assistant｜>The wren.</s><｜User｜>And another.<｜Assistant｜>",
    "zephyr": (
        "<|user|>\nName a bird.</s>\n<|assistant|>\nThe wren.</s>\n<|user|>\nAnd another.</s>\n<|assistant|>\n"
    ),
    "olmo2": (
        "<s><|user|>\nName a bird.\n<|assistant|>\nThe wren.</s>\n<|user|>\nAnd another.\n<|assistant|>\n"
    ),
    "gemma4": (
        "<s><|turn>user\nName a bird.<turn|>\n<|turn>model\nThe wren.<turn|>\n<|turn>user\nAnd another.<turn|>\n"
        "<|turn>model\n<|channel>thought\n<channel|>"
    ),
    "qwen3.5": (
        "<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nThe wren.<|im_end|>\n"
        "<|im_start|>user\nAnd another.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    ),
    "llama4": (
        "<s><|header_start|>user<|header_end|>\n\nName a bird.<|eot|><|header_start|>assistant<|header_end|>\n\n"
        "The wren.<|eot|><|header_start|>user<|header_end|>\n\nAnd another.<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    ),
    "glm4.6": (
        "[gMASK]<sop><|user|>\nName a bird.<|assistant|>\n<think></think>\nThe wren.<|user|>\nAnd another.<|assistant|>"
    ),
    "smollm3": (
        "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 08 July 2025\n"
        "Reasoning Mode: /no_think\n\n## Custom Instructions\n\nYou are a helpful AI assistant named SmolLM, trained "
        "by Hugging Face.\n\n<|im_start|>user\nName a bird.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
        "The wren.<|im_end|>\n<|im_start|>user\nAnd another.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
    ),
    "phi4-mini": (
        "<|user|>Name a bird.<|end|><|assistant|>The wren.<|end|><|user|>And another.<|end|><|assistant|>"
    ),
}
"""Whole conversations as the makers' own templates write them."""


def messages(turns: Sequence[str], system: str | None = None) -> list[dict[str, str]]:
    opening = [] if system is None else [{"role": "system", "content": system}]
    return opening + [
        {"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)
    ]


def tokenizer_of(folder: Path, tokens: Sequence[str]) -> ModelTokenizer:
    """A tokenizer of single bytes that has <s>, </s> and these tokens, and no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(["<s>", "</s>", *tokens]))
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", additional_special_tokens=special
    ).save_pretrained(folder)
    return ModelTokenizer(folder, name=folder.name)


def own_tokenizer(folder: Path, template: ChatTemplate) -> ModelTokenizer:
    stops = [text for text in template.stop if text != "{eos}"]
    return tokenizer_of(folder, [*template.tokens, *stops])


@pytest.fixture(scope="module", params=["llama3", "qwen3", "gemma3", "smollm2"])
def real(request: pytest.FixtureRequest) -> tuple[ChatTemplate, ChatFormat]:
    """A family, and the format that its real tokenizer's own template gives."""
    folder = Path(os.environ.get("MAGPIE_TEST_TOKENIZERS", BESIDE)) / request.param
    if request.param != "smollm2" and not (folder / "tokenizer.json").is_file():
        pytest.skip(
            f"no tokenizer {request.param} at hand; MAGPIE_TEST_TOKENIZERS names the folder that holds it"
        )
    where = "demo" if request.param == "smollm2" else str(folder)
    return BY_NAME[request.param], ChatFormat.from_model(where)


def test_the_families_ship() -> None:
    assert [template.name for template in FAMILIES] == shipped.names("templates/chat")
    assert set(HUB_NAMES.values()) | {"chatml"} == set(BY_NAME)


@pytest.mark.parametrize("template", FAMILIES, ids=lambda template: template.name)
def test_a_family_says_what_whence_and_why(template: ChatTemplate) -> None:
    assert template.description.endswith(".")
    assert template.source.startswith("https://")
    assert template.models or template.name == "chatml"
    if template.tokens:
        assert set(template.stop) - {"{eos}"} <= set(template.tokens)
    assert bool(template.advice.why) == bool(template.advice.settings())


@pytest.mark.parametrize("template", FAMILIES, ids=lambda template: template.name)
def test_a_family_derives_to_its_own_texts(template: ChatTemplate, tmp_path: Path) -> None:
    tokenizer = FamilyTokenizer(own_tokenizer(tmp_path, template), template)
    chat = ChatFormat.derive(tokenizer)
    texts = chat.texts

    def filled(text: str) -> str:
        return text.replace("{bos}", "<s>").replace("{eos}", "</s>")

    assert texts.pre_query + texts.user_lead == filled(template.pre_query)
    assert texts.post_query + texts.reply_lead == filled(template.post_query)
    assert texts.past_post_query + texts.reply_lead == filled(template.past_post_query or template.post_query)
    assert texts.next_turn + texts.user_lead == filled(template.next_turn)
    assert tokenizer.notes == ()
    assert chat.prompt(TALK) == tokenizer.encode(texts.conversation(TALK))
    assert chat.bos_id == (0 if "{bos}" in template.pre_query and "{bos}" not in template.next_turn else None)
    if template.pre_query_with_system is None:
        with pytest.raises(ChatFormatError, match="no system role"):
            chat.prompt([], system="Be brief.")
    else:
        opening = filled(template.pre_query_with_system).replace("{system}", "Be brief.").rstrip(" ")
        assert tokenizer.decode(chat.prompt([], system="Be brief.")).rstrip(" ") == opening


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_is_written_as_published(name: str, tmp_path: Path) -> None:
    template = BY_NAME[name]
    tokenizer = FamilyTokenizer(own_tokenizer(tmp_path, template), template)
    written = tokenizer.render(messages(TALK), add_generation_prompt=True)
    assert written.rstrip(" ") == WRITTEN[name]


def test_a_real_tokenizer_says_what_its_family_file_says(real: tuple[ChatTemplate, ChatFormat]) -> None:
    template, chat = real
    texts = read_texts(FamilyTokenizer(chat.tokenizer, template))
    for what in ("pre_query", "post_query", "past_post_query", "next_turn", "user_lead", "reply_lead"):
        assert getattr(texts, what) == getattr(chat.texts, what), what
    turns = [" Name a bird.\n", "<think>\nA bird.\n</think>\n\n The wren. ", "And another. "]
    for system in (None, "Be brief."):
        for count in (1, 3):
            own, family = (
                tokenizer.render(messages(turns[:count], system), add_generation_prompt=True)
                for tokenizer in (chat.tokenizer, FamilyTokenizer(chat.tokenizer, template))
            )
            assert own == family


def test_a_real_tokenizer_is_held_against_its_family(real: tuple[ChatTemplate, ChatFormat]) -> None:
    template, chat = real
    assert compare(chat.texts, chat.tokenizer) == Comparison(template, ())
    assert fitting(chat.tokenizer)[0] == template.name


def test_a_near_family_comes_with_what_differs(tmp_path: Path) -> None:
    template = BY_NAME["mistral-v1"]
    tokenizer = own_tokenizer(tmp_path, template)
    texts = read_texts(FamilyTokenizer(tokenizer, template))
    found = compare(replace(texts, pre_query="<s>[INST]"), tokenizer)
    assert found is not None
    assert (found.family.name, found.differences) == (
        "mistral-v1",
        (("pre_query", "<s>[INST]", "<s> [INST]"),),
    )
    strange = replace(texts, pre_query="Q", post_query="\nA", past_post_query="\nA", next_turn="\n\n\nQ")
    assert compare(strange, tokenizer) is None


def test_families_fit_by_their_tokens_and_the_most_specific_comes_first(tmp_path: Path) -> None:
    chatml = tokenizer_of(tmp_path / "a", ["<|im_start|>", "<|im_end|>"])
    assert fitting(chatml) == ("chatml",)
    llama = tokenizer_of(tmp_path / "b", BY_NAME["llama3.1"].tokens)
    assert fitting(llama) == ("llama3.1", "llama3.2", "llama3.3", "llama3")
    assert fitting(tokenizer_of(tmp_path / "c", [])) == ()


@pytest.mark.parametrize(("hub_name", "family"), HUB_NAMES.items())
def test_a_model_is_known_by_its_name(hub_name: str, family: str) -> None:
    local = f"/models/{hub_name.rpartition('/')[2].lower()}/"
    assert [found.name for name in (hub_name, local) if (found := for_model(name))] == [family, family]


@pytest.mark.parametrize(
    "name",
    ["gpt2", "meta-llama/Llama-3.1-8B", "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", "Qwen/Qwen2-VL-7B-Instruct",
     "Qwen/Qwen3-8B-Base", "Qwen/Qwen3-4B-Thinking-2507", "deepseek-ai/DeepSeek-V3.1", "google/gemma-2-9b"],
)  # fmt: skip
def test_a_model_of_another_format_is_not_taken_for_one(name: str) -> None:
    assert for_model(name) is None


@pytest.mark.parametrize("template", [one for one in FAMILIES if one.advice.why], ids=lambda one: one.name)
def test_advice_is_what_a_recipe_takes(template: ChatTemplate) -> None:
    settings, lines = template.advice.settings(), template.advice.lines()
    assert load_recipe("air", overrides=settings) != load_recipe("air")
    read = {path: parse_value(value) for path, _, value in (line.partition(": ") for line in lines)}
    assert read == settings


def test_the_advice_for_llama_3_1_is_the_published_one() -> None:
    assert BY_NAME["llama3.1"].advice.lines()[:4] == (
        'instruct.mix: [{"temperature": 0.9, "top_p": 1.0}]',
        "instruct.max_tokens: 1024",
        "instruct.stop_at_newline: false",
        'instruct.hold_back: ["#", "##", "###", "####", "**"]',
    )
    assert Advice(why="a test", thinking="off").lines() == ('models.generator.thinking: "off"',)
    assert Advice().lines() == ()
    with pytest.raises(RecipeError, match="needs `why`"):
        Advice(temperature=0.5)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("llama3.1", "%d %b %Y"),
        ("llama3.2", "%d %b %Y"),
        ("granite3.1", "%B %d, %Y"),
        ("gpt-oss", "%Y-%m-%d"),
        ("mistral-small-3.1", "%Y-%m-%d"),
    ],
)
def test_dates_are_those_that_templates_are_told(name: str, written: str) -> None:
    assert TEMPLATE_DATE.strftime(written) in BY_NAME[name].pre_query


def test_a_system_prompt_that_moves_stands_with_the_last_user_message(tmp_path: Path) -> None:
    template = load_template("mistral-v3")
    tokenizer = FamilyTokenizer(own_tokenizer(tmp_path, template), template)
    assert tokenizer.render(messages(TALK, "Be {brief}."), add_generation_prompt=True).rstrip(" ") == (
        "<s>[INST] Name a bird.[/INST] The wren.</s>[INST] Be {brief}.\n\nAnd another.[/INST]"
    )
    assert tokenizer.render(messages(TALK[:1], "Be brief."), add_generation_prompt=False) == (
        "<s>[INST] Be brief.\n\nName a bird."
    )


def test_a_past_answer_of_gpt_oss_is_on_the_final_channel(tmp_path: Path) -> None:
    template = load_template("gpt-oss")
    tokenizer = FamilyTokenizer(own_tokenizer(tmp_path, template), template)
    assert tokenizer.render(messages(TALK), add_generation_prompt=True).endswith(
        "<|start|>user<|message|>Name a bird.<|end|><|start|>assistant<|channel|>final<|message|>The wren.<|end|>"
        "<|start|>user<|message|>And another.<|end|><|start|>assistant"
    )


def test_a_file_strips_the_roles_it_names_only(tmp_path: Path) -> None:
    template = load_template("gemma3")
    tokenizer = FamilyTokenizer(own_tokenizer(tmp_path, template), template)
    assert tokenizer.render(messages([" Hi. "], " Be brief. "), add_generation_prompt=False) == (
        "<s><start_of_turn>user\n Be brief. \n\nHi."
    )
    with pytest.raises(ChatFormatError, match="alternate"):
        tokenizer.render([*messages(["a"]), *messages(["b"])], add_generation_prompt=True)
