"""`instruct.mode: ask`: a request in the chat format, and rows and a card that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from builds import small_recipe
from recording import CHAT, SCRIPTED, Recorder, base_rows, run

from magpie.build import build
from magpie.engines.scripted import ScriptedTokenizer
from magpie.publish.card.making import make_card
from magpie.publish.source import open_source
from magpie.recipe import Instruct
from magpie.steps.instruct import InstructStep
from magpie.steps.instruct.asking import request_for

TEXT = ScriptedTokenizer().decode


def asked(**settings: Any) -> tuple[list[str], list[Any]]:
    step = InstructStep(Instruct(**settings), 1, SCRIPTED)
    recorder = Recorder()
    run(step, base_rows(0, 1), recorder)
    return [prompt for prompt, _ in recorder.asked], [sampling for _, sampling in recorder.asked]


def test_the_request_stands_in_the_chat_format_and_ends_with_the_answer() -> None:
    (prompt,), (sampling,) = asked(mode="ask")
    assert prompt == TEXT(CHAT.prompt([request_for(None)])) and prompt != CHAT.pre_query
    assert sampling.stop_ids == CHAT.answer_stop_ids
    (prompt,), _ = asked(mode="ask", system_prompt="A cook asks.")
    assert "A cook asks." in prompt and prompt == TEXT(CHAT.prompt([request_for("A cook asks.")]))


def test_every_row_and_the_card_say_so(tmp_path: Path) -> None:
    run = build(small_recipe(instruct={"mode": "ask"}, filter=None, extend=None), tmp_path / "ask")
    assert set(run.dataset()["instruct_mode"]) == {"ask"}
    card = make_card(open_source(run), license="mit", with_figures=False).text
    assert "by another method than" in card and "opening of its own chat" not in card


def test_the_method_itself_has_the_columns_and_settings_that_it_had(tmp_path: Path) -> None:
    (step,) = InstructStep.plan(small_recipe(), pa.schema([]))
    assert "instruct_mode" not in step.adds.names and not {"mode", "ask"} & step.settings.keys()
