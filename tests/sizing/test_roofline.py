"""The roofline, beside aiconfigurator 0.12's figures for 45 tokens in and 430 out (read 2026-11-26)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magpie.recipe import Model
from magpie.sizing.cards import find_card
from magpie.sizing.roofline import Request, requests_per_second
from magpie.sizing.shapes import shape_of

ROWS = [  # model, fp8, card, tensor parallel, slots, thousand tokens/s a GPU
    ("8B", False, "a100-80gb", 1, 256, 8.7),
    ("8B", False, "a100-80gb", 1, 384, 10.1),
    ("8B", False, "a100-80gb", 1, 768, 10.8),
    ("8B", False, "h100-80gb", 1, 512, 26.0),
    ("8B", False, "h100-80gb", 1, 1024, 27.6),
    ("8B", True, "h100-80gb", 1, 512, 30.0),
    ("8B", True, "h100-80gb", 1, 1024, 32.1),
    ("70B", False, "a100-80gb", 4, 128, 0.76),
    ("70B", False, "a100-80gb", 4, 256, 0.99),
    ("70B", False, "a100-80gb", 4, 512, 1.06),
    ("70B", True, "h100-80gb", 2, 512, 4.6),
]


@pytest.mark.parametrize(("size", "fp8", "card", "tensor_parallel", "slots", "thousands"), ROWS)
def test_it_is_within_a_fifth_of_measured_kernels(
    size: str, fp8: bool, card: str, tensor_parallel: int, slots: int, thousands: float
) -> None:
    shape = shape_of(Model(model=f"meta-llama/Meta-Llama-3-{size}-Instruct"))
    assert shape is not None
    if fp8:
        shape = replace(shape, weight_bytes=1.0)
    request = Request(prompt=45, output=430)
    rate = requests_per_second(shape, find_card(card), request, slots, tensor_parallel)
    assert rate * 430 / tensor_parallel == pytest.approx(thousands * 1000, rel=0.2)


def test_what_all_rows_share_is_calculated_once_and_read_every_time() -> None:
    shape = shape_of(Model(model="meta-llama/Meta-Llama-3-8B-Instruct"))
    assert shape is not None
    card = find_card("h100")
    fresh, shared = (
        requests_per_second(shape, card, Request(prompt=400, output=80, shared=shared), 512)
        for shared in (0, 360)
    )
    short = requests_per_second(shape, card, Request(prompt=40, output=80), 512)
    assert fresh < shared < short
