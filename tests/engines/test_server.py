"""What the server engine sends to each kind of server, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asking import PROMPT, ask, model
from loopback import Answer, completion, serving, well

from magpie.engines.base import Completion, Sampling
from magpie.engines.server import ServerEngine
from magpie.errors import ServerError


def test_a_prompt_goes_out_as_ids_with_neutral_settings_spelled_out() -> None:
    sampling = Sampling(max_tokens=9, seed=3, top_p=0.9, stop_ids=(2, 4), stop=("\n",))
    with serving() as server:
        assert ask(server.url, sampling=sampling) == [Completion("fine", 3, "stop")]
        ask(server.url, sampling=Sampling(max_tokens=9, seed=3, presence_penalty=1.5))
    [(path, body), (_, penalized)] = server.asked
    assert (body["presence_penalty"], penalized["presence_penalty"]) == (0.0, 1.5)
    assert path == "/v1/completions"
    assert body["prompt"] == PROMPT
    assert (body["model"], body["seed"], body["max_tokens"]) == ("served", 3, 9)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 0.9, -1, 0.0)
    assert (body["stop"], body["stop_token_ids"]) == (["\n"], [2, 4])
    assert body["skip_special_tokens"] is False
    assert body["repetition_penalty"] == 1.0


def test_the_context_is_the_shorter_of_the_recipes_and_the_servers() -> None:
    with serving() as server:
        [long, cut] = ask(server.url, [1] * 64, [1] * 60)
        assert long.finish_reason == "error"
        assert "64 tokens" in long.error
        assert cut.finish_reason == "stop"
    assert server.asked[0][1]["max_tokens"] == 4


def test_no_more_requests_are_in_flight_than_the_recipe_allows() -> None:
    with serving(lambda body: Answer(well(body).body, late=0.02)) as server:
        results = ask(server.url, *([i] * 3 for i in range(12)), concurrency=3)
    assert [result.text for result in results] == ["fine"] * 12
    assert server.most_at_once <= 3


def letters(ids: Any) -> str:
    """A tokenizer whose every token is one letter; 1 is the BOS, `^`."""
    return "".join("^" if i == 1 else chr(96 + i) for i in ids)


TEXT = {"decode": letters, "bos_id": 1}


def text_only(added: str) -> Callable[[dict[str, Any]], Answer]:
    """A server that takes text, and puts `added` before it."""

    def behave(body: dict[str, Any]) -> Answer:
        if not isinstance(body["prompt"], str):
            return Answer({"error": "prompt must be a string"}, 422)
        return completion(prompt=len(added + body["prompt"]))

    return behave


def test_a_server_that_refuses_ids_gets_text_and_its_own_bos_stands_for_ours() -> None:
    with serving(text_only(""), cards=[{"id": "x"}]) as server:
        assert ask(server.url, [1, 2], [1, 3], opened=TEXT, concurrency=1)[1].text == "fine"
    assert [body["prompt"] for _, body in server.asked] == [[1, 2], "^b", "^c"]
    with serving(text_only("^"), cards=[{"id": "x"}]) as server:
        assert ask(server.url, [1, 2], [1, 3], opened=TEXT, concurrency=1)[1].text == "fine"
    assert [body["prompt"] for _, body in server.asked] == [[1, 2], "^b", "b", "c"]
    with serving(text_only("^"), cards=[{"id": "x"}]) as server:
        assert "second BOS" in str(ask(server.url, [2, 3], opened=TEXT)[0])


def test_a_server_that_knows_no_stop_ids_gets_their_texts() -> None:
    sampling = Sampling(max_tokens=8, seed=0, stop=("\n",), stop_ids=(4, 5))
    with serving(cards=[{"id": "x"}]) as server:
        ask(server.url, sampling=sampling, opened=TEXT)
    assert server.asked[0][1]["stop"] == ["\n", "d", "e"]


def test_ollama_is_asked_raw() -> None:
    def ollama(body: dict[str, Any]) -> Answer:
        return Answer({"response": "fine", "done_reason": "length", "eval_count": 8, "prompt_eval_count": 2})

    sampling = Sampling(max_tokens=8, seed=4, schema='{"type": "object"}')
    cards = [{"id": "wanted:latest", "owned_by": "library"}]
    with serving(ollama, cards=cards, version={"version": "0.40.0"}) as server:
        assert ask(server.url, [1, 2], sampling=sampling, opened=TEXT) == [Completion("fine", 8, "length")]
    [(path, body)] = server.asked
    assert path == "/api/generate"
    assert (body["prompt"], body["raw"], body["stream"]) == ("^b", True, False)
    assert body["format"] == {"type": "object"}
    assert body["options"]["num_ctx"] == 4096
    assert (body["options"]["seed"], body["options"]["repeat_penalty"]) == (4, 1.0)


@pytest.mark.parametrize(
    ("owner", "field", "value"),
    [
        ("vllm", "structured_outputs", {"json": {"type": "object"}, "disable_any_whitespace": True}),
        ("sglang", "json_schema", '{"type": "object"}'),
        ("llamacpp", "json_schema", {"type": "object"}),
        ("somebody", "guided_json", {"type": "object"}),
    ],
)
def test_each_server_gets_the_schema_its_own_way_and_must_keep_to_it(
    owner: str, field: str, value: Any
) -> None:
    sampling = Sampling(max_tokens=8, seed=0, schema='{"type": "object"}')
    with serving(cards=[{"id": "x", "owned_by": owner}]) as server:
        [unkept] = ask(server.url, sampling=sampling)
    assert server.asked[0][1][field] == value
    assert unkept.finish_reason == "error"
    assert "schema" in unkept.error


def test_an_unknown_ending_is_an_error() -> None:
    with serving(lambda body: completion(prompt=4, reason="abort")) as server:
        [result] = ask(server.url)
    assert (result.finish_reason, result.text) == ("error", "fine")


VLLM = [{"id": "served", "owned_by": "vllm", "max_model_len": 64}]
DESCRIBED = {"components": {"schemas": {"CompletionRequest": {"properties": {"repetition_detection": {}}}}}}


def test_a_vllm_that_can_is_told_to_end_repetitions() -> None:
    sampling = Sampling(max_tokens=9, seed=3, stop_repetition=True)
    with serving(lambda body: completion(prompt=4, reason="repetition"), description=DESCRIBED) as server:
        assert ask(server.url, sampling=sampling) == [Completion("fine", 3, "repetition")]
        ask(server.url)
    bodies = [body for _, body in server.asked]
    wanted = {"min_pattern_size": 33, "max_pattern_size": 64, "min_count": 4}
    assert [body.get("repetition_detection") for body in bodies] == [wanted, None]


@pytest.mark.parametrize(
    ("description", "cards", "asked", "named"),
    [
        (DESCRIBED, VLLM, {"hold_back": (3,)}, "`hold_back`"),
        (
            DESCRIBED,
            VLLM,
            {"first_token_divisor": 1.2, "hold_back": (3,)},
            "`first_token_divisor`, `hold_back`",
        ),
        ({"components": {"schemas": []}}, VLLM, {"stop_repetition": True}, "`stop_repetition`"),
        (None, VLLM, {"stop_repetition": True}, "`stop_repetition`"),
        (
            DESCRIBED,
            [{"id": "served", "owned_by": "llamacpp"}],
            {"stop_repetition": True},
            "`stop_repetition`",
        ),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_it_is_asked(
    description: dict[str, Any] | None, cards: list[dict[str, Any]], asked: dict[str, Any], named: str
) -> None:
    with serving(cards=cards, description=description) as server:
        [error] = ask(server.url, sampling=Sampling(max_tokens=9, seed=3, **asked))
    assert isinstance(error, ServerError)
    assert f"cannot do {named}; use --engine vllm or transformers" in str(error)
    assert not server.asked


def test_an_engine_says_what_it_can_do() -> None:
    async def controls(url: str) -> frozenset[str]:
        engine = await ServerEngine.open(model(url))
        await engine.close()
        return engine.model.controls

    with serving(description=DESCRIBED) as server:
        assert asyncio.run(controls(server.url)) == {"stop_repetition"}
    with serving() as server:
        assert asyncio.run(controls(server.url)) == set()
