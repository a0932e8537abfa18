"""One form in which texts and words are compared, whatever the script."""

from __future__ import annotations

import string

import pytest

from magpie.text import folded, normal, words


def test_ascii_is_left_as_it_is() -> None:
    assert normal(string.printable) == string.printable
    assert folded(string.printable) == string.printable.lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ｗｈａｔ ｉｓ？", "What is?"),
        ("cafe\u0301", "café"),
        ("ﬁne", "fine"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("①", "1"),
        ("한국어", "한국어"),
    ],
)
def test_a_text_written_in_two_ways_is_one(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_a_raised_digit_is_no_plain_one() -> None:
    assert normal("What is 10²?") != normal("What is 102?")
    assert normal("What is 10²?") == "What is 10^2?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("STRASSE", "Straße"),
        ("İSTANBUL", "istanbul"),
        ("ISPARTA", "ısparta"),
        ("ΟΔΟΣ", "οδος"),
        ("Usu\u00adario", "usuario"),
        ("\ufeffUser", "user"),
        ("می\u200cخواهم", "میخواهم"),
        ("ＵＳＥＲ", "user"),
    ],
)
def test_words_are_the_same_whatever_their_case(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_words_of_every_script_are_whole() -> None:
    assert words("हिन्दी में, 2.0 you've") == ["हिन्दी", "में", "2", "0", "you", "ve"]
    assert words("สวัสดี ครับ") == ["สวัสดี", "ครับ"]
    assert words("你好吗 Foo_1") == ["你", "好", "吗", "foo_1"]
    assert words("שָׁלוֹם") == ["שָׁלוֹם"]
