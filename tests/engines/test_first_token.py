"""What is done to a first token, and that vLLM's two model runners do it to first tokens only."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from magpie.engines import first_token

torch = pytest.importorskip("torch")

WIDTH = 12
HELD = {"hold_back": [2, 5, WIDTH + 3], "divisor": 2.0}


def test_held_back_ids_are_out_and_the_others_divided() -> None:
    logits = torch.arange(24.0).reshape(2, 12)
    first_token.change(logits[1], hold_back=(3, 11, 99), divisor=2.0)
    assert torch.equal(logits[0], torch.arange(12.0))
    halves = torch.arange(12.0, 24.0) / 2
    halves[[3, 11]] = float("-inf")
    assert torch.equal(logits[1], halves)


def test_what_a_schema_leaves_alone_is_not_held_back() -> None:
    logits = torch.full((6,), float("-inf"))
    logits[4] = 3.0
    first_token.change(logits, hold_back=(4,), divisor=1.5)
    assert logits[4] == 2.0
    assert int(logits.argmax()) == 4


def test_a_neutral_setting_asks_for_nothing() -> None:
    assert first_token.extra_args(hold_back=(), divisor=1.0) is None
    assert first_token.extra_args(hold_back=(), divisor=1.2) is not None
    with pytest.raises(AttributeError):
        first_token.ForV3  # noqa: B018


def check(logits: Any, before: Any, fresh: set[int]) -> None:
    """The rows of `fresh` are changed, and no other."""
    for row, (was, now) in enumerate(zip(before, logits, strict=True)):
        expected = was.clone()
        if row in fresh:
            first_token.change(expected, **HELD)
        assert torch.equal(now, expected), row


@pytest.mark.slow
def test_v1_knows_first_tokens_in_a_batch_that_rows_join_leave_pause_and_move_in() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

    processor = first_token.ForV1(None, torch.device("cpu"), False)
    batch = InputBatch(
        max_num_reqs=8, max_model_len=64, max_num_batched_tokens=64, device=torch.device("cpu"), vocab_size=WIDTH,
        block_sizes=[16], max_num_blocks_per_req=[4], logitsprocs=LogitsProcessors([processor]),
    )  # fmt: skip
    draw = random.Random(0)
    paused: list[Any] = []
    rows: dict[str, Any] = {}
    changed = untouched = 0

    def new_request(number: int) -> Any:
        asked = first_token.extra_args(**HELD) if draw.random() < 0.7 else None
        return CachedRequestState(
            req_id=str(number), prompt_token_ids=[1, 2], mm_features=[], output_token_ids=[], block_ids=([0],),
            sampling_params=SamplingParams(extra_args=asked, skip_clone=True), generator=None,
            num_computed_tokens=0, pooling_params=None, lora_request=None,
        )  # fmt: skip

    for number in range(400):
        for name in [name for name in rows if draw.random() < 0.2]:
            batch.remove_request(name)
            gone = rows.pop(name)
            if draw.random() < 0.5:
                paused.append(gone)
        while len(rows) < 8 and draw.random() < 0.6:
            request = (
                paused.pop() if paused and draw.random() < 0.5 else new_request(1000 * number + len(rows))
            )
            batch.add_request(request)
            rows[request.req_id] = request
        batch.condense()
        if len(rows) > 1 and draw.random() < 0.5:
            batch.swap_states(*draw.sample(range(len(rows)), 2))
        batch.refresh_metadata()
        logits = torch.randn(len(rows), WIDTH)
        before = logits.clone()
        fresh = {
            batch.req_id_to_index[name]
            for name, row in rows.items()
            if row.sampling_params.extra_args and not row.output_token_ids
        }
        check(processor.apply(logits), before, fresh)
        changed, untouched = changed + len(fresh), untouched + len(rows) - len(fresh)
        for row in rows.values():
            if draw.random() < 0.8:  # the others were prefilled in part
                row.output_token_ids.append(7)
    assert min(changed, untouched) > 100


@pytest.mark.slow
def test_v2_knows_first_tokens_by_the_tokens_seen() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    import numpy as np
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

    lengths = np.zeros(4, dtype=np.int32)
    processor = first_token.ForV2(None, SimpleNamespace(prompt_len=SimpleNamespace(np=lengths)))
    assert isinstance(processor, LogitsProcessor)

    def add(slot: int, length: int, *, asks: bool) -> None:
        lengths[slot] = length
        params = SamplingParams(extra_args=first_token.extra_args(**HELD) if asks else None)
        assert processor.add_request(slot, params) == asks

    def step(slots: list[int], seen: list[int], fresh: set[int]) -> None:
        unread = dict.fromkeys(
            ("expanded_idx_mapping", "idx_mapping", "expanded_local_pos", "input_ids", "pos"), torch.empty(0)
        )
        told = {"idx_mapping_np": np.array(slots), "seq_lens_upper_bound_np": np.array([*seen, 0])}
        logits = torch.randn(len(slots), WIDTH)
        before = logits.clone()
        check(processor.apply(logits, LogitsContext(**unread, **told)), before, fresh)

    add(0, 5, asks=True)
    add(3, 4, asks=False)
    step([3, 0], [4, 3], set())  # slot 0 is prefilled in parts
    step([0, 3], [5, 5], {0})
    step([3, 0], [6, 6], set())
    add(0, 2, asks=True)  # another request in the same place
    add(1, 4, asks=True)
    step([1, 3, 0], [6, 7, 2], {2})  # slot 1 comes back from a pause, two tokens on
    add(0, 2, asks=False)
    step([0], [2], set())
