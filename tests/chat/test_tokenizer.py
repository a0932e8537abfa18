"""A model's own tokenizer: its templates by name, dates that stand still, variables that nothing gives."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from tokenizers_made import CHATML, derive, refused, small

from magpie.chat import ChatFormat
from magpie.chat.jinja import Variables, read_variables
from magpie.chat.tokenizer import ModelTokenizer
from magpie.errors import ChatFormatError, ModelError
from magpie.recipe import Model

DATED = {
    "llama 3.1": (
        "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
        "{% endif %}<|im_start|>system\nToday Date: {{ date_string }}<|im_end|>\n",
        "Today Date: 26 Jul 2024",
    ),
    "granite": (
        "<|im_start|>system\nToday's Date: {{ strftime_now('%B %d, %Y') }}.<|im_end|>\n",
        "Today's Date: July 26, 2024.",
    ),
    "gpt-oss": (
        "{% macro opening() %}Current date: {{ strftime_now('%Y-%m-%d') }}\n{% endmacro %}"
        "<|im_start|>system\n{{ opening() }}<|im_end|>\n",
        "Current date: 2024-07-26",
    ),
    "mistral small": (
        "{% set today = strftime_now('%Y-%m-%d') %}<|im_start|>system\nThe current date is {{ today }}.<|im_end|>\n",
        "The current date is 2024-07-26.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", DATED)
def test_the_date_in_a_template_stays_the_same(tmp_path: Path, family: str) -> None:
    template, written = DATED[family]
    chat = derive(tmp_path, template + CHATML)
    assert written in chat.pre_query
    assert f"{datetime.now():%Y}" not in chat.pre_query or datetime.now().year == 2024
    assert any("kept at 2024-07-26" in warning for warning in chat.warnings)


def test_a_date_of_ones_own_is_written(tmp_path: Path) -> None:
    chat = derive(
        tmp_path, DATED["llama 3.1"][0] + CHATML, chat_template_kwargs={"date_string": "1 May 2031"}
    )
    assert "Today Date: 1 May 2031" in chat.pre_query
    assert not any("date" in warning for warning in chat.warnings)
    assert "date_string" in chat.describe()["options"]


def test_a_date_that_is_not_written_is_not_spoken_of(tmp_path: Path) -> None:
    assert derive(tmp_path, "{% if tools %}{{ strftime_now('%d') }}{% endif %}" + CHATML).warnings == ()


def test_template_settings_reach_the_template(tmp_path: Path) -> None:
    where = small(tmp_path, "{{ mood }}" + CHATML)
    chat = ChatFormat.from_model(Model(model=where, chat_template_kwargs={"mood": "Happy. "}))
    assert chat.pre_query == "Happy. <|im_start|>user\n"
    assert chat.identity() != ChatFormat.from_model(where).identity()


def test_variables_that_nothing_gives_are_named(tmp_path: Path) -> None:
    chat = derive(tmp_path, "{{ mood }}{{ today }}{% if tone %}{{ tone }}{% endif %}" + CHATML)
    (warning,) = chat.warnings
    assert "needs a value for mood, today; set `chat_template_kwargs: {mood: ...}`" in warning
    assert chat.describe()["options"] == ["mood", "today", "tone"]


def test_a_setting_that_the_template_does_not_read_is_named(tmp_path: Path) -> None:
    chat = derive(
        tmp_path,
        CHATML + "{% if enable_thinking %}{% endif %}",
        chat_template_kwargs={"enable_thinkin": False},
    )
    assert any(
        "does not read enable_thinkin; it reads enable_thinking" in warning for warning in chat.warnings
    )


@pytest.mark.parametrize("name", ["tools", "documents"])
def test_a_template_that_cannot_do_without_tools_says_how_to_give_them(tmp_path: Path, name: str) -> None:
    template = f"{{% for one in {name} %}}{{{{ one.title }}}}{{% endfor %}}" + CHATML
    message = refused(tmp_path, template)
    assert f"it needs a value for {name}: set it in the model's `chat_template_kwargs`" in message
    chat = derive(
        tmp_path / "given", template, chat_template_kwargs={name: [{"title": "A title", "text": ""}]}
    )
    assert chat.pre_query == "A title<|im_start|>user\n"


def named(folder: Path, **templates: str) -> str:
    """A small tokenizer with several chat templates, as transformers saves them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small(folder / "one", None))
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(folder / "several")
    return str(folder / "several")


def test_of_several_templates_the_default_is_used_and_the_others_named(tmp_path: Path) -> None:
    where = named(tmp_path, default=CHATML, rag="Search. " + CHATML, tool_use="Tools. " + CHATML)
    chat = ChatFormat.from_model(where)
    assert chat.pre_query == "<|im_start|>user\n"
    assert any(
        "other chat templates (rag, tool_use); `chat_template` can name one" in one for one in chat.warnings
    )
    chosen = ChatFormat.from_model(Model(model=where, chat_template="rag"))
    assert chosen.pre_query == "Search. <|im_start|>user\n"
    assert chosen.source == "tokenizer"
    with pytest.raises(
        ChatFormatError, match=r"no chat template 'ragg'.*chatml.* has default, rag, tool_use"
    ):
        ChatFormat.from_model(Model(model=where, chat_template="ragg"))


def test_several_templates_in_the_tokenizers_settings_are_read_too(tmp_path: Path) -> None:
    where = Path(small(tmp_path, None))
    settings = json.loads((where / "tokenizer_config.json").read_text())
    templates = [{"name": "default", "template": CHATML}, {"name": "rag", "template": "R. " + CHATML}]
    (where / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": templates}))
    assert ChatFormat.from_model(str(where)).pre_query == "<|im_start|>user\n"
    assert ChatFormat.from_model(Model(model=str(where), chat_template="rag")).pre_query.startswith("R. ")


def test_several_templates_without_a_default_are_refused_with_their_names(tmp_path: Path) -> None:
    where = named(tmp_path, rag=CHATML, tool_use=CHATML)
    with pytest.raises(
        ChatFormatError, match=r"several chat templates \(rag, tool_use\) and none .*; name one in"
    ):
        ChatFormat.from_model(where)
    assert ChatFormat.from_model(Model(model=where, chat_template="rag")).pre_query == "<|im_start|>user\n"


def test_a_file_of_templates_goes_before_a_template_of_the_same_name(tmp_path: Path) -> None:
    where = named(tmp_path, default=CHATML, vicuna=CHATML)
    assert ChatFormat.from_model(Model(model=where, chat_template="vicuna")).source == "vicuna"


def test_a_template_in_the_processors_file_is_read(tmp_path: Path) -> None:
    where = Path(small(tmp_path, None))
    (where / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
    assert ChatFormat.from_model(str(where)).pre_query == "<|im_start|>user\n"
    (where / "chat_template.json").write_text("{}")
    with pytest.raises(ChatFormatError, match="holds no chat template; fetch it again"):
        ChatFormat.from_model(str(where))


def test_control_tokens_are_known_by_their_look_too(tmp_path: Path) -> None:
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small(tmp_path / "one", CHATML))
    tokenizer.add_tokens(
        [AddedToken("<｜User｜>", special=False), AddedToken("<|tool|>", special=False), "plain"]
    )
    tokenizer.save_pretrained(tmp_path / "two")
    found = ModelTokenizer(tmp_path / "two", name="two").special_tokens
    assert {"<｜User｜>", "<|tool|>"} <= found.keys()
    assert "plain" not in found


def test_mistrals_own_tokenizer_file_does_not_hide_the_template(tmp_path: Path) -> None:
    where = Path(small(tmp_path, CHATML))
    (where / "config.json").write_text('{"model_type": "mistral"}')
    (where / "tekken.json").write_text("{}")
    assert ChatFormat.from_model(str(where)).pre_query == "<|im_start|>user\n"


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        ChatFormat.from_model(str(tmp_path))


@pytest.mark.parametrize(
    ("template", "read", "needed"),
    [
        ("{{ a }}{{ messages }}{{ bos_token }}", {"a"}, {"a"}),
        ("{% if a %}{{ a }}{% endif %}{{ b | default('x') }}{{ c if c else '' }}", {"a", "b", "c"}, set()),
        ("{% if a is defined and b == 'x' %}{% endif %}{% if not c %}{% endif %}", {"a", "b", "c"}, set()),
        ("{% set a = 1 %}{{ a }}{% for b in messages %}{{ b }}{% endfor %}", set(), set()),
        ("{% if not a is defined %}{% set a = 1 %}{% endif %}{{ a }}", {"a"}, set()),
        ("{% if messages %}{% set a = 1 %}{% endif %}{{ a }}", set(), set()),
        ("{% macro f(a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}", {"b"}, {"b"}),
        ("{% generation %}{{ a }}{% endgeneration %}{{ namespace(x=1).x }}{{ range(2) }}", {"a"}, {"a"}),
        ("{% if %}", set(), set()),
    ],
)
def test_the_variables_of_a_template(template: str, read: set[str], needed: set[str]) -> None:
    found = read_variables(template, given=frozenset({"bos_token"}))
    assert found == Variables(frozenset(read), frozenset(needed))
