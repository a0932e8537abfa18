"""What it gains to score conversations together: a reward model through vLLM, over the same model one by one.

The model is made on the spot: a Llama with a score head and random weights, of one `--dtype` on all sides: in float32
the rewards can be compared to the last bits. Lengths are mixed, as conversations are: log-normal, from 8 to 1,000
tokens. "One by one" is transformers with one conversation a pass, as published code scores; "batched" is our own scorer
on transformers, for machines without vLLM. All are on the GPU where there is one, and are given token ids, and a few
conversations to warm up on; loading is left out of the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from magpie.engines import open_scorer
from magpie.engines.base import Scorer
from magpie.models import ModelFiles
from magpie.recipe import Model

_CONTEXT = 1024
_VOCABULARY = 1024
_WARM_UP = 16


@dataclass(frozen=True, slots=True)
class Scored:
    """The rewards of all conversations, in order, and the seconds they took."""

    rewards: tuple[float, ...]
    seconds: float

    @property
    def speed(self) -> float:
        """Rows a second."""
        return len(self.rewards) / self.seconds


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="256 rows instead of 2,000")
    parser.add_argument("--rows", type=int, help="conversations to score")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256, help="width of the model, a multiple of 64")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    rows = options.rows or (256 if options.quick else 2_000)
    conversations = _conversations(rows)
    with tempfile.TemporaryDirectory(prefix="magpie-reward-") as folder:
        make_model(Path(folder), layers=options.layers, hidden=options.hidden)
        files = ModelFiles("reward", Path(folder), "local")
        # vLLM binds this process to cores of its own choice: what is compared with it comes first.
        alone = _one_by_one(Path(folder), conversations, options.dtype)
        batched = asyncio.run(_with_scorer("transformers", files, conversations, options.dtype))
        vllm = asyncio.run(_with_scorer("vllm", files, conversations, options.dtype))
    named = (("transformers, one by one", alone), ("transformers, batched", batched), ("vLLM", vllm))
    _show(named)
    lengths = sorted(map(len, conversations))
    figures = {
        "ratio": round(vllm.speed / alone.speed, 2),
        "max_difference": _difference(vllm, alone),
        "batched_ratio": round(batched.speed / alone.speed, 2),
        "batched_max_difference": _difference(batched, alone),
        "rows": rows,
        "rows_per_second": round(vllm.speed, 1),
        "one_by_one_rows_per_second": round(alone.speed, 1),
        "median_tokens": lengths[rows // 2],
        "dtype": options.dtype,
        "layers": options.layers,
        "hidden": options.hidden,
    }
    print(json.dumps({"benchmark": "reward", **figures}))


def make_model(folder: Path, *, layers: int, hidden: int) -> None:
    """A reward model with random weights in `folder`, and the smallest tokenizer that loads."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 192),
        max_position_embeddings=_CONTEXT,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.05,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(_VOCABULARY)}, "w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(folder)


def _conversations(count: int) -> list[list[int]]:
    draw = random.Random(42)
    lengths = [min(1000, max(8, round(draw.lognormvariate(4.8, 0.9)))) for _ in range(count)]
    return [[draw.randrange(2, _VOCABULARY) for _ in range(length)] for length in lengths]


def _one_by_one(folder: Path, conversations: Sequence[Sequence[int]], dtype: str) -> Scored:
    import torch
    from transformers import AutoModelForSequenceClassification

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
    network = network.eval().to(device)

    def score(conversation: Sequence[int]) -> float:
        ids = torch.tensor([list(conversation)], device=device)
        return float(network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])

    with torch.inference_mode():
        for conversation in conversations[:_WARM_UP]:
            score(conversation)
        began = time.perf_counter()
        rewards = tuple(map(score, conversations))
        return Scored(rewards, time.perf_counter() - began)


async def _with_scorer(
    engine: Any, files: ModelFiles, conversations: Sequence[Sequence[int]], dtype: str
) -> Scored:
    model = Model(model=str(files.path), engine=engine, dtype=dtype, context_length=_CONTEXT)
    scorer: Scorer = await open_scorer(model, files)
    try:
        await _all(scorer.score, conversations[:_WARM_UP])
        began = time.perf_counter()
        scores = await _all(scorer.score, conversations)
        seconds = time.perf_counter() - began
    finally:
        await scorer.close()
    troubles = [score.error for score in scores if score.value is None]
    assert not troubles, troubles[0]
    return Scored(tuple(score.value for score in scores), seconds)


async def _all(
    score: Callable[[Sequence[int]], Awaitable[Any]], conversations: Sequence[Sequence[int]]
) -> list[Any]:
    return await asyncio.gather(*map(score, conversations))


def _difference(one: Scored, other: Scored) -> float:
    return max(abs(a - b) for a, b in zip(one.rewards, other.rewards, strict=True))


def _show(named: Sequence[tuple[str, Scored]]) -> None:
    table = Table(title="reward: one model, three ways to run it", title_justify="left")
    for heading in ("way", "rows", "seconds", "rows/s"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, scored in named:
        table.add_row(name, f"{len(scored.rewards):,}", f"{scored.seconds:.1f}", f"{scored.speed:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
