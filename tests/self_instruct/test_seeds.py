"""The seed tasks that ship: 175, well-formed, varied, and none that the screen would throw out."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from magpie import shipped
from magpie.self_instruct.rouge import RougeFilter

# Words for which the published screen drops an instruction, as a text model cannot serve it.
UNSERVED = re.compile(r"\b(images?|graphs?|pictures?|files?|maps?|draw|plots?|go to)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def seeds() -> list[dict[str, Any]]:
    path = shipped.find("templates/self_instruct", "seeds", ending=".jsonl")
    assert path is not None
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def instructions(seeds: list[dict[str, Any]]) -> list[str]:
    return [seed["instruction"] for seed in seeds]


def test_there_are_as_many_as_published(seeds: list[dict[str, Any]]) -> None:
    assert len(seeds) == 175
    assert sum(seed["is_classification"] for seed in seeds) == 25


def test_each_has_the_published_form_and_one_whole_instance(seeds: list[dict[str, Any]]) -> None:
    for seed in seeds:
        assert list(seed) == ["id", "name", "instruction", "instances", "is_classification"]
        assert isinstance(seed["is_classification"], bool)
        (instance,) = seed["instances"]
        assert list(instance) == ["input", "output"]
        texts = [seed["instruction"], instance["input"], instance["output"]]
        assert texts == [text.strip() for text in texts], seed["name"]
        assert seed["instruction"] and instance["output"], seed["name"]
        assert instance["input"] != instance["output"], seed["name"]
        assert not instance["output"].endswith(":"), seed["name"]


def test_ids_count_up_and_names_differ(seeds: list[dict[str, Any]]) -> None:
    assert [seed["id"] for seed in seeds] == [f"seed_{number:03d}" for number in range(175)]
    names = [seed["name"] for seed in seeds]
    assert len(set(names)) == 175
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", name)] == []


def test_a_label_is_a_word_or_two(seeds: list[dict[str, Any]]) -> None:
    labels = {seed["name"]: seed["instances"][0]["output"] for seed in seeds if seed["is_classification"]}
    assert {name: label for name, label in labels.items() if len(label.split()) > 2} == {}


def test_the_published_screen_keeps_every_one(seeds: list[dict[str, Any]]) -> None:
    for text in instructions(seeds):
        assert 3 < len(text.split()) <= 150, text
        assert text[0].isascii() and text[0].isalnum(), text
        assert "\n" not in text and not text.endswith(":"), text  # a prompt gives each a line of its own
        assert not text.startswith("Write a program"), text
        assert not UNSERVED.search(text), text


def test_half_have_an_input(seeds: list[dict[str, Any]]) -> None:
    with_input = sum(bool(seed["instances"][0]["input"]) for seed in seeds)
    assert 75 <= with_input <= 100


def test_no_opening_is_worn_out(seeds: list[dict[str, Any]]) -> None:
    words = (re.findall(r"\w+", text.lower())[0] for text in instructions(seeds))
    assert Counter(words).most_common(1)[0][1] <= 12


def test_no_two_are_alike(seeds: list[dict[str, Any]]) -> None:
    decisions = RougeFilter(0.5, averages=True).screen(instructions(seeds))
    alike = [seeds[number]["name"] for number, decision in enumerate(decisions) if not decision.accepted]
    assert alike == []
