"""Scorers on a small reward model of random weights: batched, in vLLM, and one by one, all the same rewards."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from rewards_made import reward_model

from magpie.chat import Transcript
from magpie.engines import open_scorer
from magpie.engines.base import Score, without_padding
from magpie.errors import EngineError, ModelError
from magpie.recipe import EngineKind, Model

CLOSE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("torch")
    return reward_model(tmp_path_factory.mktemp("reward"))


def model(folder: str, engine: EngineKind, *, context_length: int = 1024) -> Model:
    return Model(model=folder, engine=engine, dtype="float32", context_length=context_length)


def conversations(folder: str, count: int) -> list[list[int]]:
    """Of many lengths, in the model's own template; the last ends in padding."""
    transcript = Transcript.from_model(folder)
    draw = random.Random(7)
    texts = ["".join(draw.choices("abc def?!\n", k=draw.randint(1, 300))) for _ in range(2 * count)]
    ids = [transcript.ids([texts[2 * at], texts[2 * at + 1]]) for at in range(count)]
    return [*ids, [*ids[0], 4, 4]]


def one_by_one(folder: str, asked: Sequence[Sequence[int]]) -> list[float]:
    """What transformers gives for one conversation at a time, as published code runs it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [float(network(input_ids=torch.tensor([list(ids)])).logits[0, 0]) for ids in asked]


def scored(settings: Model, asked: Sequence[Sequence[int]]) -> list[Score]:
    async def run() -> list[Score]:
        scorer = await open_scorer(settings)
        try:
            assert scorer.model.name == settings.model
            return await asyncio.gather(*map(scorer.score, asked))
        finally:
            await scorer.close()

    return asyncio.run(run())


def rewards(settings: Model, asked: Sequence[Sequence[int]]) -> list[float | None]:
    return [score.value for score in scored(settings, asked)]


def test_batches_of_mixed_lengths_score_as_one_by_one(folder: str) -> None:
    asked = conversations(folder, 50)
    alone = one_by_one(folder, asked)
    assert max(alone) - min(alone) > 0.1  # they do differ
    assert rewards(model(folder, "transformers"), asked) == pytest.approx(alone, abs=CLOSE)


@pytest.mark.slow
def test_vllm_scores_as_transformers_one_by_one(folder: str) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    asked = conversations(folder, 100)
    long = [5] * 1025
    *found, last = scored(model(folder, "vllm"), [*asked, long])
    assert [score.value for score in found] == pytest.approx(one_by_one(folder, asked), abs=CLOSE)
    assert last.value is None
    assert "the context holds 1024" in str(last.error)


def test_a_model_without_a_padding_token_is_batched_too(tmp_path: Path) -> None:
    folder = reward_model(tmp_path, pad=None)
    asked = conversations(folder, 12)
    assert rewards(model(folder, "transformers"), asked) == pytest.approx(
        one_by_one(folder, asked), abs=CLOSE
    )


def test_a_conversation_too_long_is_one_failed_score(folder: str) -> None:
    short, long = scored(model(folder, "transformers", context_length=100), [[5] * 100, [5] * 101])
    assert short.value is not None
    assert long.value is None
    assert "101 tokens and the context holds 100" in str(long.error)


def test_a_closed_scorer_says_so(folder: str) -> None:
    async def run() -> None:
        scorer = await open_scorer(model(folder, "transformers"))
        await scorer.close()
        with pytest.raises(EngineError, match="open it again"):
            await scorer.score([5, 6])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "made for LlamaForCausalLM"),
        ({"id2label": {"0": "bad", "1": "good"}}, "tells 2 classes apart"),
        ({"id2label": 5}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_what_is_no_reward_model_is_refused_before_it_is_loaded(
    tmp_path: Path, engine: EngineKind, changes: dict[str, object] | None, why: str
) -> None:
    if engine == "vllm":
        pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    folder = Path(reward_model(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{" if changes is None else json.dumps(config | changes))
    with pytest.raises(ModelError, match=why):
        scored(model(str(folder), engine), [[5]])


def test_a_server_has_no_scorer() -> None:
    with pytest.raises(EngineError, match="cannot score with engine server"):
        asyncio.run(open_scorer(Model(model="x", engine="server")))


@pytest.mark.parametrize(
    ("ids", "padding", "left"),
    [
        ([1, 0, 2, 0, 0], 0, [1, 0, 2]),
        ([1, 2], 0, [1, 2]),
        ([1, 0], None, [1, 0]),
        ([0, 0], 0, []),
        ([], 0, []),
    ],
)
def test_padding_comes_off_the_end_alone(ids: list[int], padding: int | None, left: list[int]) -> None:
    assert without_padding(ids, padding) == left
