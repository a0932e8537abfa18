"""The published rules, each with its reason, and what the original does wrong."""

from __future__ import annotations

import pytest

from magpie.recipe import Screen
from magpie.self_instruct import rules
from magpie.self_instruct.parsing import CUT, Draft
from magpie.self_instruct.rules import screen_instances, tidied
from magpie.self_instruct.tasks import Instance
from magpie.steps.bootstrap.rounds import instruction_rules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", rules.EMPTY),
        ("Name three birds", rules.TOO_SHORT),
        ("Name three night birds", None),
        ("word " * 150, None),
        ("word " * 151, rules.TOO_LONG),
        ("Describe what the image shows us", rules.UNSERVED),
        ("Plot the values of the series", rules.UNSERVED),
        ("Go to the shop and buy milk", rules.UNSERVED),
        ("Draw a circle with a compass", rules.UNSERVED),
        ("Name the drawbacks of a photographic memory", None),  # "draw" and "graph" are whole words
        ("Write a program that sorts numbers", rules.OPENING),
        ("write a PROGRAM that sorts numbers", rules.OPENING),
        ("Write a programme for a village concert", None),
        ("- Name three night birds", rules.PUNCTUATION),
        ('"Name" is what part of speech?', rules.PUNCTUATION),
        ("Ünlü bir şairin adını söyle", rules.NOT_ASCII),
    ],
)
def test_each_rule_has_its_reason(text: str, reason: str | None) -> None:
    assert instruction_rules(Screen()).problem(" ".join(text.split())) == reason


def test_each_rule_can_be_switched_off() -> None:
    off = Screen(min_words=0, max_words=10_000, words=(), openings=(), punctuation=False, ascii_only=False)
    for text in ("Hi", "word " * 900, "Plot an image", "Write a program", "- Ünlü", "Ünlü bir"):
        assert instruction_rules(off).problem(text) is None


def test_only_the_first_letter_becomes_a_capital() -> None:
    """The original's `capitalize` makes "Explain how nasa uses python in the usa" of it."""
    assert tidied(" explain how NASA\n uses  Python in the USA ") == "Explain how NASA uses Python in the USA"
    assert tidied("iPhone or Pixel?") == "IPhone or Pixel?" and tidied("") == ""


def test_instances_are_out_for_a_reason_each() -> None:
    drafts = [
        Draft("a", "b"),
        Draft("a", "b"),
        Draft("c", "c"),
        Draft("d", ""),
        Draft("e", "The parts are:"),
        Draft("A list:", "f"),
        Draft("g", "h", CUT),
        Draft("i", "j"),
        Draft("k", "l"),
    ]
    kept, reasons = screen_instances(drafts, most=2)
    assert kept == [Instance("a", "b"), Instance("i", "j")]
    assert reasons == [rules.TWICE, rules.SAME, rules.EMPTY, rules.COLON, rules.COLON, CUT, rules.MANY]


def test_every_instance_is_looked_at_for_a_cut_and_not_the_last_alone() -> None:
    drafts = [Draft("a", "First:"), Draft("b", "whole"), Draft("c", "also whole")]
    kept, reasons = screen_instances(drafts, most=5)
    assert [one.input for one in kept] == ["b", "c"] and reasons == [rules.COLON]


def test_one_input_with_two_outputs_takes_all_of_the_task_with_it() -> None:
    drafts = [Draft("a", "yes"), Draft("b", "no"), Draft("a", "no")]
    assert screen_instances(drafts, most=5) == ([], [rules.CONTRADICTS] * 3)


def test_several_outputs_without_an_input_contradict_nothing_and_keep_their_order() -> None:
    drafts = [Draft("", name) for name in "dcbae"]
    assert [one.output for one in screen_instances(drafts, most=5)[0]] == list("dcbae")
