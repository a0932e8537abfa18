"""What a model takes of a GPU, and the settings that follow."""

from __future__ import annotations

import pytest

from magpie.errors import RecipeError
from magpie.recipe import Model
from magpie.sizing.cards import CARDS, card_of_device, find_card
from magpie.sizing.fit import SHARE_OF_CACHE, fit, smallest_tensor_parallel
from magpie.sizing.shapes import ModelShape, shape_of


def shape(name: str) -> ModelShape:
    found = shape_of(Model(model=name))
    assert found is not None
    return found


SMALL, LARGE = shape("meta-llama/Meta-Llama-3-8B-Instruct"), shape("meta-llama/Meta-Llama-3-70B-Instruct")


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_slots_take_most_of_the_cache_and_no_more(card: object) -> None:
    done = fit(SMALL, card.memory)  # type: ignore[attr-defined]
    held = done.slots * SMALL.cache_bytes(done.row_tokens)
    assert done.fits and done.slots % 8 == 0
    assert held <= SHARE_OF_CACHE * done.cache < held + 8 * SMALL.cache_bytes(done.row_tokens)
    assert done.weights + done.working + done.cache == pytest.approx(done.usable)
    assert done.batched_tokens >= 2 * done.slots
    assert done.graph_sizes[-1] == done.slots and list(done.graph_sizes) == sorted(set(done.graph_sizes))


def test_what_was_measured_lies_in_its_reach() -> None:
    """256 to 768 slots on an A100 were measured to be worth it, 1,024 on an H100 with longer rows not needed."""
    assert 512 <= fit(SMALL, find_card("a100-80gb").memory).slots <= 1024


def test_the_smallest_tensor_parallel_that_fits() -> None:
    sizes = {card.name: smallest_tensor_parallel(LARGE, card.memory) for card in CARDS}
    assert sizes == {
        "a100-40gb": 8, "a100-80gb": 4, "h100-80gb": 4, "h200": 2, "b200": 1, "l40s": 4, "rtx-4090": 8,
    }  # fmt: skip
    assert smallest_tensor_parallel(SMALL, find_card("rtx-4090").memory) == 1
    assert smallest_tensor_parallel(shape("meta-llama/Llama-3.1-405B-Instruct"), 80 << 30) is None


def test_what_does_not_fit_says_so() -> None:
    done = fit(LARGE, find_card("a100-80gb").memory)
    assert not done.fits and done.cache == 0


def test_what_a_recipe_sets_stands() -> None:
    done = fit(SMALL, 80 << 30, slots=100, batched_tokens=2048, graph_sizes=(1, 100))
    assert (done.slots, done.batched_tokens, done.graph_sizes) == (100, 2048, (1, 100))


def test_longer_rows_take_fewer_slots() -> None:
    many, few = (fit(SMALL, 80 << 30, row_tokens=tokens).slots for tokens in (475, 1900))
    assert many > 3.5 * few
    assert fit(SMALL, 80 << 30, row_tokens=9000, context_length=475).slots == many


def test_a_small_model_is_not_given_more_slots_than_help() -> None:
    assert fit(shape("demo"), 80 << 30).slots == 3072


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_a_card_is_known_by_what_the_driver_calls_it(device: str, name: str | None) -> None:
    card = card_of_device(device)
    assert (None if card is None else card.name) == name


@pytest.mark.parametrize("name", ["h100", "H100-80GB", "h100_80gb"])
def test_a_card_is_found_by_the_names_people_give_it(name: str) -> None:
    assert find_card(name).name == "h100-80gb"


def test_an_unknown_card_is_refused_with_the_list() -> None:
    with pytest.raises(RecipeError, match="--gpu 't4' is not known; use one of: a100-40gb, "):
        find_card("t4")
