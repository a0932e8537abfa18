"""The transformers engine, on networks small enough to be made on the spot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from magpie.engines.base import Completion, Sampling
from magpie.engines.transformers import TransformersEngine
from magpie.errors import EngineError, ModelError
from magpie.models import ModelFiles
from magpie.recipe import Model

torch = pytest.importorskip("torch")

WORDS = 96
END = 1
Complete = Callable[..., list[Completion]]


def make_model(folder: Path, *, sliding: bool) -> ModelFiles:
    """A random network of two layers, and a tokenizer whose token i is the character at 32 + i."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    sizes: dict[str, Any] = {
        "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
        "bos_token_id": 0, "eos_token_id": END, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    if sliding:
        layers = ["sliding_attention", "full_attention"]
        config = Gemma3TextConfig(**sizes, head_dim=16, sliding_window=8, layer_types=layers)
        network = Gemma3ForCausalLM(config)
    else:
        network = LlamaForCausalLM(LlamaConfig(**sizes))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    network.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({chr(32 + i): i for i in range(WORDS)}, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", bos_token=" ").save_pretrained(folder)
    return ModelFiles(name=folder.name, path=folder, revision="random")


@pytest.fixture(scope="module", params=["full", "sliding"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_model(tmp_path_factory.mktemp(request.param), sliding=request.param == "sliding")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_model(tmp_path_factory.mktemp("plain"), sliding=False)


def run(files: ModelFiles, asked: list[tuple[list[int], Sampling]], *, slots: int = 4) -> list[Completion]:
    async def go() -> list[Completion]:
        engine = await TransformersEngine.open(small(files, slots), files)
        try:
            return await asyncio.gather(*(engine.complete(prompt, sampling) for prompt, sampling in asked))
        finally:
            await engine.close()

    return asyncio.run(go())


def small(files: ModelFiles, slots: int = 4) -> Model:
    return Model(
        model=str(files.path), engine="transformers", dtype="float32", slots=slots, context_length=256
    )


def mixed(count: int, **settings: Any) -> list[tuple[list[int], Sampling]]:
    """Prompts of 1 to 23 tokens, each to be continued by 1 to 40 tokens."""
    return [
        (
            [2 + (i * 7 + k) % 90 for k in range(1 + i * 5 % 23)],
            Sampling(max_tokens=1 + i * 11 % 40, seed=i, **settings),
        )
        for i in range(count)
    ]


def alone(files: ModelFiles, prompt: list[int], limit: int) -> list[int]:
    """Greedy decoding without a cache, without a batch."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(files.path)
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(limit):
            tokens.append(int(network(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == END:
                break
    return tokens[len(prompt) :]


def text_of(ids: list[int]) -> str:
    return "".join(chr(32 + i) for i in ids)


def test_rows_of_any_length_in_a_changing_batch_say_what_they_say_alone(files: ModelFiles) -> None:
    asked = mixed(14, temperature=0.0)
    for (prompt, sampling), completion in zip(asked, run(files, asked), strict=True):
        expected = alone(files, prompt, sampling.max_tokens)
        ended = expected[-1] == END
        assert completion.text == text_of(expected[:-1] if ended else expected)
        assert (completion.token_count, completion.finish_reason) == (
            len(expected),
            "stop" if ended else "length",
        )


def test_what_a_row_draws_does_not_depend_on_the_rows_beside_it(files: ModelFiles) -> None:
    asked = mixed(12, temperature=1.3, top_p=0.9, top_k=40, min_p=0.01)
    together = run(files, asked, slots=5)
    assert [run(files, [one])[0] for one in asked[::4]] == together[::4]
    assert run(files, asked[::-1], slots=3)[::-1] == together


def test_equal_prompts_with_seeds_of_their_own_differ(plain: ModelFiles) -> None:
    asked = [([5, 6, 7], Sampling(max_tokens=12, seed=seed)) for seed in range(8)]
    texts = [completion.text for completion in run(plain, asked)]
    assert len(set(texts)) == 8
    assert [completion.text for completion in run(plain, asked)] == texts


def test_a_stop_id_and_a_stop_string_end_the_text_before_them(plain: ModelFiles) -> None:
    prompt, ids = next((p, ids) for p in ([i] for i in range(2, 90)) if len(ids := alone(plain, p, 20)) == 20)
    whole = text_of(ids)
    greedy = {"max_tokens": 20, "seed": 0, "temperature": 0.0}
    stop_id, stop = ids[6], whole[4:6]
    by_id, by_text = run(
        plain,
        [(prompt, Sampling(**greedy, stop_ids=(stop_id,))), (prompt, Sampling(**greedy, stop=(stop, "\n")))],
    )
    at = ids.index(stop_id)
    assert by_id == Completion(whole[:at], at + 1, "stop")
    assert (by_text.text, by_text.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_special_tokens_that_are_no_stops_stay_visible(plain: ModelFiles) -> None:
    asked = [([5, 6], Sampling(max_tokens=60, seed=seed, temperature=3.0)) for seed in range(12)]
    assert any(" " in completion.text for completion in run(plain, asked)), (
        "the BOS, token 0, is a space here"
    )


def test_a_schema_is_kept_to(plain: ModelFiles) -> None:
    pytest.importorskip("xgrammar")
    schema = {
        "type": "object",
        "properties": {"quality": {"enum": ["poor", "good"]}, "why": {"type": "string", "maxLength": 9}},
        "required": ["quality", "why"],
        "additionalProperties": False,
    }
    asked = [([4, 5], Sampling(max_tokens=80, seed=i, schema=json.dumps(schema))) for i in range(3)]
    *kept, free, bad = run(
        plain, [*asked, ([4, 5], Sampling(max_tokens=9, seed=0)), ([4], bad_schema())], slots=4
    )
    for completion in kept:
        assert completion.finish_reason == "stop", completion
        assert json.loads(completion.text)["quality"] in {"poor", "good"}
    assert free.finish_reason in {"stop", "length"}
    assert bad.finish_reason == "error"
    assert "schema" in str(bad.error)


def bad_schema() -> Sampling:
    return Sampling(max_tokens=9, seed=0, schema="{no")


def test_a_prompt_that_does_not_fit_is_that_rows_error_and_one_that_just_fits_is_cut(
    plain: ModelFiles,
) -> None:
    sampling = Sampling(max_tokens=9, seed=0, temperature=0.0)
    long, empty, full = run(plain, [([3] * 256, sampling), ([], sampling), ([3] * 255, sampling)])
    assert (long.finish_reason, empty.finish_reason) == ("error", "error")
    assert "256 tokens" in str(long.error)
    assert full.token_count == 1


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[int]]]:
    """Makes a network run out of memory on more rows than so many; gives the list of batch sizes tried."""
    from transformers import LlamaForCausalLM

    tried: list[int] = []
    forward = LlamaForCausalLM.forward

    def limit(rows: int) -> list[int]:
        def limited(self: Any, input_ids: Any, **kwargs: Any) -> Any:
            tried.append(len(input_ids))
            if len(input_ids) > rows:
                raise torch.OutOfMemoryError("out of memory, says the test")
            return forward(self, input_ids, **kwargs)

        monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
        return tried

    return limit


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    plain: ModelFiles, memory_for: Callable[[int], list[int]]
) -> None:
    asked = mixed(12, temperature=1.0)
    expected = run(plain, asked, slots=8)
    tried = memory_for(3)
    assert run(plain, asked, slots=8) == expected
    assert max(tried) == 8
    assert 0 < sum(size > 3 for size in tried) <= 2  # 8, then 4, then never again


def test_a_row_too_large_even_alone_is_that_rows_error(
    plain: ModelFiles, memory_for: Callable[[int], list[int]]
) -> None:
    memory_for(0)
    completions = run(plain, mixed(3))
    assert [completion.finish_reason for completion in completions] == ["error"] * 3
    assert "out of memory" in str(completions[0].error)


def test_a_dead_engine_tells_everyone_who_waits_and_everyone_who_comes(
    plain: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def broken(self: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(LlamaForCausalLM, "forward", broken)

    async def go() -> list[Any]:
        engine = TransformersEngine(small(plain), plain)
        asked = [engine.complete(prompt, sampling) for prompt, sampling in mixed(6)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EngineError, match="device is gone"):
            await engine.complete([3], Sampling(max_tokens=1, seed=0))
        await engine.close()
        return told

    assert all(isinstance(error, EngineError) for error in asyncio.run(go()))


def test_closing_and_cancelling_leave_nobody_waiting(plain: ModelFiles) -> None:
    async def go() -> None:
        engine = TransformersEngine(small(plain), plain)
        endless = Sampling(max_tokens=250, seed=0, temperature=0.0)
        tasks = [asyncio.create_task(engine.complete([i], endless)) for i in range(2, 9)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await engine.close()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(told[0], asyncio.CancelledError)
        assert all(isinstance(result, Completion | EngineError) for result in told[1:])
        with pytest.raises(EngineError, match="closed"):
            await engine.complete([3], endless)

    asyncio.run(go())


def test_a_first_request_that_is_cancelled_while_it_waits_leaves_the_engine_alive(plain: ModelFiles) -> None:
    async def go() -> Completion:
        engine = TransformersEngine(small(plain), plain)
        with engine._changed:  # the engine's thread takes nothing from the queue
            cancelled = asyncio.create_task(engine.complete([2], Sampling(max_tokens=1, seed=0)))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
        try:
            return await engine.complete([3], Sampling(max_tokens=1, seed=0))
        finally:
            await engine.close()

    assert asyncio.run(go()).token_count == 1


def test_a_folder_without_weights_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load"):
        TransformersEngine(Model(model="nothing"), ModelFiles("nothing", tmp_path, "none"))


def test_a_first_token_is_changed_and_no_other(plain: ModelFiles) -> None:
    greedy = Sampling(max_tokens=3, seed=0, temperature=0.0)
    prompts = [[i] for i in range(2, 12)]
    free = [alone(plain, prompt, 3) for prompt in prompts]
    held = [Sampling(max_tokens=3, seed=0, temperature=0.0, hold_back=(ids[0],)) for ids in free]
    done = run(plain, [*zip(prompts, held, strict=True), *((prompt, greedy) for prompt in prompts)], slots=3)
    for ids, held_back, beside in zip(free, done[:10], done[10:], strict=True):
        assert not held_back.text.startswith(text_of(ids[:1]))
        assert beside.text == text_of([i for i in ids if i != END])
    warm = [([5], Sampling(max_tokens=1, seed=seed, temperature=0.5)) for seed in range(60)]
    flat = [
        (prompt, Sampling(max_tokens=1, seed=i, first_token_divisor=9.0))
        for i, (prompt, _) in enumerate(warm)
    ]
    assert len(set(run(plain, flat, slots=60))) > len(set(run(plain, warm, slots=60)))


def test_a_row_that_repeats_itself_ends(plain: ModelFiles) -> None:
    """A small random network at temperature 0 soon goes in circles."""
    settings = {"max_tokens": 300, "seed": 0, "temperature": 0.0}
    asked = [
        ([i], Sampling(**settings, stop_repetition=stops)) for stops in (False, True) for i in range(2, 22)
    ]
    done = run(plain, asked, slots=40)
    pairs = [
        (free, cut)
        for free, cut in zip(done[:20], done[20:], strict=True)
        if cut.finish_reason == "repetition"
    ]
    assert len(pairs) > 5
    for free, cut in pairs:
        assert free.text.startswith(cut.text)
        assert 132 <= cut.token_count == len(cut.text) < free.token_count
