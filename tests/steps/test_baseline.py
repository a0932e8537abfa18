"""The base model's answers: the page it is shown, where it stops, and how its texts begin."""

from pathlib import Path

import pytest
from recording import SCRIPTED, Recorder, base_rows, run
from tokenizers_made import CHATML, small

from magpie.chat import PlainText
from magpie.recipe import Baseline
from magpie.steps.baseline import BaselineStep


def answered(recorder: Recorder, **columns: list[str]) -> list[dict[str, object]]:
    step = BaselineStep(Baseline(max_tokens=77), 42, SCRIPTED)
    return run(step, base_rows(0, 3, out=[1], **columns), recorder).to_pylist()


def test_the_page_ends_where_the_answer_begins() -> None:
    recorder = Recorder()
    asked = ["Why {{ so }}?", "out", "{{ instruction }}"]
    rows = answered(recorder, instruction=asked)
    assert [
        text.endswith(f"\n\n<question>\n{asked[at]}\n</question>\n<answer>\n")
        for at, (text, _) in zip((0, 2), recorder.asked, strict=True)
    ] == [True, True]
    assert all(text.count("<question>") == 4 for text, _ in recorder.asked)
    assert all(
        sampling.stop[0] == "</answer>" and sampling.max_tokens == 77 for _, sampling in recorder.asked
    )
    assert [row["base_response"] is None for row in rows] == [False, True, False]
    assert rows[0]["base_finish_reason"] == "stop"


def test_an_engine_error_leaves_no_answer() -> None:
    rows = answered(Recorder(failure_rate=1.0), instruction=["a", "b", "c"])
    assert [(row["base_response"], row["base_finish_reason"]) for row in rows] == [
        (None, "error"), (None, None), (None, "error"),
    ]  # fmt: skip


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_text_begins_as_the_tokenizer_begins_texts(tmp_path: Path, adds_bos: bool) -> None:
    plain = PlainText.from_model(small(tmp_path, None if adds_bos else CHATML, adds_bos=adds_bos))
    text = "Why?\n"
    assert plain.tokenizer.decode(plain.ids(text)) == ("<bos>" if adds_bos else "") + text
    assert len(plain.stop_ids) == 1


def test_the_token_that_ends_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    """Servers that show special tokens leave it there."""
    plain = PlainText.from_model(small(tmp_path, CHATML))
    end = plain.tokenizer.decode(list(plain.stop_ids))
    assert end
    assert plain.without_end(f"Because.{end}\n{end} ") == "Because."
    assert plain.without_end(f"{end}Because.\n") == f"{end}Because.\n"
