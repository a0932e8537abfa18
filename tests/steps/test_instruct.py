"""Instructions: positions decide the sampling, and nothing but the pre-query template is shown."""

from collections import Counter

import numpy as np
import pytest
from recording import CHAT, SCRIPTED, Recorder, base_rows, run

from magpie.recipe import Draw, Instruct
from magpie.steps.instruct import InstructStep, mix_entries


@pytest.mark.parametrize("shares", [[1.0], [1, 1], [3, 1], [300] * 9 + [100] * 3, [0.01, 0.99]])
@pytest.mark.parametrize("start", [0, 5000])
def test_a_mix_holds_its_shares_over_every_stretch(shares: list[float], start: int) -> None:
    entries = Counter(mix_entries(shares, np.arange(start, start + 1000)))
    for entry, share in enumerate(shares):
        assert entries[entry] == pytest.approx(1000 * share / sum(shares), abs=4)


def test_instructions_are_drawn_from_the_pre_query_template_alone() -> None:
    recorder = Recorder()
    part = Instruct(mix=(Draw(temperature=1.0), Draw(temperature=0.5, top_p=0.9)))
    table = run(InstructStep(part, 42, SCRIPTED), base_rows(100, 30), recorder)
    assert {prompt for prompt, _ in recorder.asked} == {CHAT.pre_query}
    assert len({sampling.seed for _, sampling in recorder.asked}) == 30
    assert {sampling.stop for _, sampling in recorder.asked} == {("\n",)}
    assert table["instruct_seed"].to_pylist() == [sampling.seed for _, sampling in recorder.asked]
    assert set(table["temperature"].to_pylist()) == {1.0, 0.5}


def test_a_row_is_the_same_in_whichever_shard_it_lies() -> None:
    step = InstructStep(Instruct(), 42, SCRIPTED)
    whole = run(step, base_rows(0, 40), Recorder())
    tail = run(step, base_rows(25, 15), Recorder())
    assert whole.slice(25).to_pylist() == tail.to_pylist()


def test_a_system_prompt_for_the_user_is_in_the_prompt() -> None:
    recorder = Recorder()
    run(InstructStep(Instruct(system_prompt="You help with sums."), 1, SCRIPTED), base_rows(0, 1), recorder)
    assert recorder.asked[0][0].startswith("<|im_start|>system\nYou help with sums.<|im_end|>")
