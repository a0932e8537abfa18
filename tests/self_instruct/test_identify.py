"""A judge's yes or no, however it is written."""

from __future__ import annotations

import pytest

from magpie.engines.base import Completion
from magpie.steps.identify import _answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('"yes"', True), ("No", False), ('```json\n"no"\n```', False), ("**Yes.**", True), ("ＹＥＳ", True),
        ("no idea", None), ("yes and no", None), ("", None),
    ],
)  # fmt: skip
def test_an_answer_is_read_in_any_spelling(text: str, answer: bool | None) -> None:
    found, why = _answer(Completion(text, 1, "stop"))
    assert found is answer and (why is None) == (answer is not None)
