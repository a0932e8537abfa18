"""Generated chat templates: a derived format is right or refused, never wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers_made import assert_follows_the_template, small

from magpie.chat import ChatFormat
from magpie.chat.tokenizer import ModelTokenizer
from magpie.errors import ChatFormatError

BOUNDED = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")

HEADERS = {
    "special": ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
    "tight": ("<|im_start|>user", "<|im_end|>", "<|im_start|>model", "<|im_end|>"),
    "plain": ("USER: ", "\n", "ASSISTANT: ", "</s>\n"),
    "lines": ("### Question:\n", "\n\n", "### Answer:\n", "\n\n"),
    "spaced": ("[INST] ", " [/INST]", " ", "<eos>"),
    "unspaced": ("[INST]", "[/INST]", "", "<eos>"),
    "next in answer": ("<|im_start|>user\n", "<|im_end|>", "<|im_start|>assistant ", " <eos>"),
}
SOUND_SYSTEMS = {
    "role": "{% if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}",
    "trimmed": "{% if m.role == 'system' %}<|im_start|>system\n{{ m.content | trim }}<|im_end|>\n{% endif %}",
    "default": (
        "{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "{% if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}"
    ),
    "none": "",
    "refused": "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
}
ODD_SYSTEMS = {
    "repeated": "{% if messages[0].role == 'system' and m.role == 'user' %}{{ messages[0].content }}\n{% endif %}",
    "at the end": "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
    "loud": "{% if m.role == 'system' %}<|im_start|>system\n{{ m.content | upper }}<|im_end|>\n{% endif %}",
    "first words": "{% if m.role == 'system' %}<|im_start|>{{ m.content | truncate(24) }}<|im_end|>\n{% endif %}",
}
FOLDS = {
    "": "",
    "first": "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}",
    "marked": "{% if loop.index0 == 1 and messages[0].role == 'system' %}<S>{{ messages[0].content }}</S>{% endif %}",
    "last": "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}",
}
SOUND_CHANGES = (
    "{}",
    "{} | trim",
    "{}.strip()",
    "{}.lstrip()",
    "{}.rstrip()",
    "{}.strip('\\n')",
    "{}.lstrip('\\n')",
)
ODD_CHANGES = (
    "{} | upper", "{} | capitalize", "{} | replace('e', 'a')", "{} | replace('\\n', ' ')", "{} | truncate(20)",
    "{} + {}", "{}.split('.')[0]", "({} | trim if loop.last else {})", "({} | trim if loop.first else {})",
    "({} if loop.index < 4 else {} | title)", "{} | tojson", "{} | e", "{} | wordwrap(9)", "'same for all'",
)  # fmt: skip
HISTORY = {
    "kept": "{}",
    "last": "({0}.split('</think>')[-1] if '</think>' in {0} else {0})",
    "last, stripped": "({0}.split('</think>')[-1].lstrip('\\n') if '</think>' in {0} else {0})",
    "first": "({0}.split('</think>', 1)[1] if '</think>' in {0} else {0})",
    "always stripped": "{0}.split('</think>')[-1].lstrip('\\n')",
    "both marks": "({0}.split('</think>')[-1].strip() if '<think>' in {0} and '</think>' in {0} else {0})",
}
OPENINGS = (
    "",
    "<think>\n",
    "<think>\n\n</think>\n\n",
    "{% if thinking %}<think>\n{% else %}</think>{% endif %}",
)
PREFIXES = ("", "{{ bos_token }}", "{{ bos_token }}Today is {{ strftime_now('%d %b %Y') }}.\n")
ODD_PREFIXES = (
    "{{ bos_token }}{{ bos_token }}",
    "x{{ bos_token }}",
    "{{ messages | length }}",
    "{{ messages[-1].content }}",
)
CHECKS = (
    "",
    "{% if messages | selectattr('role', 'equalto', 'user') | list == [] %}{{ raise_exception('No') }}{% endif %}",
)
ALTERNATE = (
    "{% if m.role != 'system' and (m.role == 'user') != ((loop.index0 - (messages[0].role == 'system')) % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
)
ODD_LOOPS = {
    "": "messages",
    "reversed": "messages | reverse",
    "last ones": "messages[-3:]",
    "sorted": "messages | sort(attribute='role')",
}
TURNS = (
    "",
    "{% if loop.index > 3 %}(on) {% endif %}",
    "{% if not loop.first %}\n{% endif %}",
    "{% if loop.last %}!{% endif %}",
)


@dataclass(frozen=True)
class Grammar:
    """The parts that a generated template is made of."""

    header: str
    prefix: str
    loop: str
    check: str
    system: str
    fold: str
    before_turn: str
    user: str
    reply: str
    history: str
    opening: str
    asks: str
    ends_last: bool

    def template(self) -> str:
        """The Jinja text."""
        user, after_user, assistant, after_reply = HEADERS[self.header]
        reply = self.reply.replace(
            "{}", HISTORY[self.history].replace("{0}", "m.content").replace("{}", "m.content")
        )
        close = after_reply if self.ends_last else "{% if not loop.last %}" + after_reply + "{% endif %}"
        header = assistant.rstrip(" ") + self.opening
        asked = {
            "honoured": "{% if add_generation_prompt %}" + header + "{% endif %}",
            "always": header + "{{ '' }}",
            "never": "",
        }
        return (
            self.prefix
            + "{% for m in " + self.loop + " %}" + self.check + self.system
            + "{% if m.role == 'user' %}" + self.before_turn + user + FOLDS[self.fold]
            + "{{ " + self.user.replace("{}", "m.content") + " }}" + after_user
            + "{% elif m.role == 'assistant' %}" + assistant + "{{ " + reply + " }}" + close
            + "{% endif %}{% endfor %}" + asked.get(self.asks, "")
        )  # fmt: skip


def grammars(*, sound: bool) -> st.SearchStrategy[Grammar]:
    """Templates with the features of real ones; with those of unsound ones too where `sound` is false."""

    def of(good: Any, bad: Any = ()) -> st.SearchStrategy[str]:
        right, odd = st.sampled_from(tuple(good)), tuple(bad)
        if sound or not odd:
            return right
        # An odd part is one draw in eight, or nearly every template would have one.
        return st.integers(0, 7).flatmap(lambda at: right if at else st.sampled_from(odd))

    return st.builds(
        Grammar,
        header=of(HEADERS),
        prefix=of(PREFIXES, ODD_PREFIXES),
        loop=of(("messages",), ODD_LOOPS.values()),
        check=of((*CHECKS, ALTERNATE)),
        system=of(SOUND_SYSTEMS.values(), ODD_SYSTEMS.values()),
        fold=of(("",) * 3 + tuple(FOLDS)),
        before_turn=of(("",), TURNS),
        user=of(SOUND_CHANGES, ODD_CHANGES),
        reply=of(SOUND_CHANGES, ODD_CHANGES),
        history=of(HISTORY),
        opening=of(OPENINGS),
        asks=of(("honoured", "honoured", "always"), ("never",)),
        ends_last=st.booleans() if not sound else st.just(True),
    )


WORDS = st.sampled_from((
    "Hello.", "Why?", "def f(x):\n    return x", "naïve café — “so”", "🐦🏳️‍🌈",
    "שלום, מה שלומך", "مرحبا", "你好。", "{{ m }} {% x %}",
    "a  b\tc", "one\ntwo\n\nthree", "<b>&amp;</b>", "USER", "assistant", "The end:", "1. first\n2. second", "E",
    "this sentence is a good deal longer than twenty characters. It has two parts.",
))  # fmt: skip
PADS = st.sampled_from(("", "", "", " ", "\n", "  ", "\n\n", " \n", "\t", "\r\n"))
THOUGHTS = st.sampled_from(
    ("", "", "", "<think>\nHm.\n</think>\n\n", "<think>Hm, so</think>", "<think>\n\n</think>\n\n")
)
MESSAGES = st.tuples(PADS, st.lists(WORDS, min_size=1, max_size=3).map(" ".join), PADS).map("".join)
REPLIES = st.tuples(THOUGHTS, MESSAGES).map("".join)
TALKS = st.tuples(MESSAGES, REPLIES, MESSAGES, REPLIES, MESSAGES)
SYSTEMS = st.sampled_from(
    (
        "Be brief.",
        " Be brief.\nAnd kind. ",
        "Du bist ein Vogel 🐦, {{ x }}; the text is <long> enough to cut.",
    )
)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(small(tmp_path_factory.mktemp("tokenizer"), "x", tokens=TOKENS, kind=request.param))


def formatted(folder: Path, template: str) -> ChatFormat:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return ChatFormat.derive(ModelTokenizer(folder, name="generated"))


def check(chat: ChatFormat, turns: tuple[str, ...], system: str) -> None:
    if chat.texts.odd_thoughts:
        turns = tuple(turn.rpartition("</think>")[2].lstrip() or "Yes." for turn in turns)
    assert_follows_the_template(chat, turns)
    assert chat.bos_id is None or chat.prompt(turns[:3]).count(chat.bos_id) == 1
    try:
        chat.prompt([], system=system)
    except ChatFormatError as error:
        assert "system prompt" in str(error) or "under a system prompt" in str(error), error
    else:
        assert_follows_the_template(chat, turns, system)


@BOUNDED
@given(grammar=grammars(sound=False), turns=TALKS, system=SYSTEMS)
def test_a_derived_format_is_right_or_refused(
    folder: Path, grammar: Grammar, turns: tuple[str, ...], system: str
) -> None:
    try:
        chat = formatted(folder, grammar.template())
    except ChatFormatError as error:
        assert "; " in str(error)
        return
    check(chat, turns, system)


@BOUNDED
@given(grammar=grammars(sound=True), turns=TALKS, system=SYSTEMS)
def test_a_template_with_ordinary_features_is_never_refused(
    folder: Path, grammar: Grammar, turns: tuple[str, ...], system: str
) -> None:
    check(formatted(folder, grammar.template()), turns, system)
