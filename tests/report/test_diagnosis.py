"""What doctor found, printed: everything that was measured, and nothing that a terminal obeys."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from samples import CHAT, cleaned, often_cut, written

from magpie.chat.families import Comparison, load_template
from magpie.doctor.doctor import Diagnosis, doctor
from magpie.doctor.measures import PROBLEMS, measure
from magpie.report.diagnosis import print_diagnosis


def printed(diagnosis: Diagnosis, *, width: int = 200) -> str:
    screen = StringIO()
    print_diagnosis(diagnosis, Console(file=screen, width=width, color_system=None))
    return screen.getvalue()


@pytest.fixture(scope="module")
def unsampled() -> Diagnosis:
    return doctor("any", n=0, engine="scripted")


def test_the_format_the_rates_and_the_verdict_are_printed() -> None:
    cut = often_cut()
    text = printed(cut, width=300)
    assert repr(CHAT.pre_query) in text and str(CHAT.stop_ids[0]) in text
    assert cut.verdict in text and "as sampled" in text and "no help" in text
    assert cut.sample is not None
    assert set(cut.sample.rates) == {"valid", *PROBLEMS}
    for name, rate in cut.sample.rates.items():
        assert re.search(rf"{name} +{re.escape(f'{rate:.1%}')}", text)


def test_a_difference_from_the_family_is_printed_on_both_sides(unsampled: Diagnosis) -> None:
    derived, published = "<|im_end|>\n\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>assistant\n"
    family = Comparison(load_template("chatml"), (("post_query", derived, published),))
    text = printed(replace(unsampled, family=family))
    assert f"derived: {derived!r}" in text and f"chatml: {published!r}" in text


def test_what_is_printed_never_obeys_a_model(unsampled: Diagnosis) -> None:
    rows = cleaned(("[red]Why \x1b[2J does it rain?", "stop"), ("[/bad] <|im_start|>\x07", "stop"))
    text = printed(replace(unsampled, sample=measure(written(rows))))
    assert r"[red]Why \x1b[2J does it rain?" in text
    assert r"[/bad] <|im_start|>\x07" in text
