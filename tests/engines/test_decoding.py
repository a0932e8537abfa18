"""The draw, against the distribution it says it draws from; repetitions, against vLLM's rule for them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from magpie.engines.transformers.decoding import Row, draw, is_repeating, penalize

torch = pytest.importorskip("torch")


def expected(logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float) -> np.ndarray:
    """The chances by the book: one row, sorted, cut and made to add up to 1 again."""
    scaled = logits / temperature
    if min_p > 0:
        chances = np.exp(scaled - scaled.max())
        scaled = np.where(chances < min_p, -np.inf, scaled)
    if top_k > 0:
        scaled = np.where(scaled < np.sort(scaled)[-top_k], -np.inf, scaled)
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    kept = np.zeros_like(chances)
    mass = 0.0
    for token in np.argsort(-chances):
        if mass >= top_p:
            break
        kept[token] = chances[token]
        mass += chances[token]
    return kept / kept.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.5, "top_p": 0.8},
        {"top_k": 5},
        {"min_p": 0.1},
        {"temperature": 1.2, "top_p": 0.9, "top_k": 9, "min_p": 0.02},
    ],
)
def test_tokens_come_as_often_as_their_chances_say(settings: dict[str, Any]) -> None:
    logits = np.random.default_rng(0).normal(size=30).astype(np.float32) * 2
    count = 20_000
    generator = torch.Generator().manual_seed(7)
    rows = [Row(tokens=[], generator=generator, **settings)] * count
    drawn = draw(torch.tensor(logits).repeat(count, 1), rows)
    share = np.bincount(drawn, minlength=30) / count
    chances = expected(logits, **({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | settings))
    assert set(np.flatnonzero(share)) <= set(np.flatnonzero(chances))
    assert np.abs(share - chances).max() < 5 * np.sqrt(0.25 / count)


def test_each_row_has_its_own_settings_and_its_own_generator() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"top_p": 0.5},
        {"top_k": 3, "temperature": 2.0},
    ]

    def rows() -> list[Row]:
        made = enumerate(settings)
        return [Row(tokens=[], generator=torch.Generator().manual_seed(i), **setting) for i, setting in made]

    together = draw(logits, rows())
    assert together[0] == int(logits[0].argmax())
    for i, row in enumerate(rows()):
        assert draw(logits[i : i + 1], [row]) == together[i : i + 1]


def test_a_presence_penalty_is_taken_once_from_what_was_written_and_not_from_the_prompt() -> None:
    logits = torch.zeros(3, 6)
    rows = [
        Row(tokens=[1, 2, 3, 3], generator=None, presence_penalty=1.5, prompt_length=2),
        Row(tokens=[1, 2, 3], generator=None, prompt_length=1),
        Row(tokens=[4, 4], generator=None, presence_penalty=2.0, prompt_length=2),
    ]
    penalize(logits, rows)
    assert logits.tolist() == [[0, 0, 0, -1.5, 0, 0], [0] * 6, [0] * 6]


def test_a_token_of_no_chance_is_never_drawn() -> None:
    logits = torch.full((5_000, 8), float("-inf"))
    logits[:, [2, 5]] = 0.0
    generator = torch.Generator().manual_seed(0)
    assert set(draw(logits, [Row(tokens=[], generator=generator)] * 5_000)) == {2, 5}


UNIT = (24, 96)


@pytest.mark.parametrize(
    ("tokens", "repeats"),
    [
        ([], False),
        ([7] * 95, False),
        ([7] * 96, True),
        ([*range(500), *[7] * 96], True),
        ([*range(24)] * 4, True),
        ([*range(23)] * 4, False),
        ([*range(23)] * 9, True),  # twice 23 are 46
        ([*range(96)] * 4, True),
        ([*range(97)] * 8, False),
        ([*([*range(30)] * 4), 5], False),
        ([1, *([*range(30)] * 4)[1:]], False),
    ],
)
def test_a_repetition_is_a_unit_of_24_to_96_tokens_four_times_over(tokens: list[int], repeats: bool) -> None:
    assert is_repeating(tokens, unit=UNIT, times=4) == repeats


@pytest.mark.slow
def test_a_repetition_is_what_vllm_calls_one() -> None:
    """On lists of few different tokens, cut and mended copies of one unit, where the rule is nearly met."""
    pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    draw = random.Random(0)
    found = 0
    for _ in range(4000):
        shortest = draw.randint(1, 5)
        unit, times = (shortest, shortest + draw.randint(0, 8)), draw.randint(2, 5)
        piece = [draw.randrange(3) for _ in range(draw.randint(1, 14))]
        tokens = [draw.randrange(3) for _ in range(draw.randint(0, 9))] + piece * draw.randint(1, 6)
        if draw.random() < 0.5:
            tokens[draw.randrange(len(tokens))] = draw.randrange(3)
        theirs = RepetitionDetectionParams(
            min_pattern_size=unit[0], max_pattern_size=unit[1], min_count=times
        )
        expected = check_sequence_repetition(tokens, theirs)
        assert is_repeating(tokens, unit=unit, times=times) == expected
        found += expected
    assert 800 < found < 3600
