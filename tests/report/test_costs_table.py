"""The plan, printed: in 80 columns, with what was published beside it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from magpie.api import plan_costs
from magpie.report.costs_table import print_costs


def printed(name: str, gpu: str | None, **options: object) -> str:
    file = io.StringIO()
    print_costs(plan_costs(name, gpu=gpu, **options), Console(file=file, width=80))  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "wanted"),
    [
        ("air", "a100-80gb", 4, ("air: 3,000,000 rows on 4 x A100 80 GB", "instruct 1.55 h, respond 50 h")),
        ("pro", "h100-80gb", 16, ("pro: 1,000,000 rows on 16 x H100 80 GB", "instruct 3.5 h, respond 150 h")),
    ],
)
def test_it_fits_a_terminal(name: str, gpu: str, gpus: int, wanted: tuple[str, ...]) -> None:
    text = printed(name, gpu, gpus=gpus, price=1.75)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        *wanted,
        "may only improve Llama 3",
        "1,000 kept",
        "what it stands on:",
        "config.json of meta-llama",
    ):
        assert part in words, part
    assert "time unknown" not in words


def test_what_is_not_known_is_said() -> None:
    text = printed("pro", "a100-80gb", gpus=2)
    assert "one engine needs 4 GPUs and there are 2" in text
    assert "time unknown: instruct → clean → language, respond" in " ".join(text.split())
    assert "for 1,000 raw rows" not in text
