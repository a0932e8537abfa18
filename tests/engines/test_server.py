"""The server engine against servers that misbehave, and once against a real `vllm serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Answer, completion, serving, well

from magpie.engines.base import Completion, Sampling
from magpie.engines.server import ServerEngine
from magpie.errors import MagpieError, ServerError
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model, Server

GREEDY = Sampling(max_tokens=8, seed=0, temperature=0.0)
PROMPT = [5, 6, 7, 8]


def model(url: str, **settings: Any) -> Model:
    patience: dict[str, Any] = {"timeout": 5.0, "retries": 2, "backoff": 0.001} | settings
    return Model(model="wanted", server=Server(url=url, **patience))


def ask(
    url: str,
    *prompts: list[int],
    sampling: Sampling = GREEDY,
    opened: dict[str, Any] | None = None,
    **settings: Any,
) -> list[Any]:
    """What becomes of each prompt: its Completion, or the error raised."""

    async def go() -> list[Any]:
        engine = await ServerEngine.open(model(url, **settings), **(opened or {}))
        try:
            asked = (engine.complete(prompt, sampling) for prompt in prompts or (PROMPT,))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(go())


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_turn(*answers: Answer) -> Callable[[dict[str, Any]], Answer]:
    """Give each answer once, in order, then answer well."""
    left = list(answers)
    return lambda body: left.pop(0) if left else well(body)


def test_a_prompt_goes_out_as_ids_with_neutral_settings_spelled_out() -> None:
    sampling = Sampling(max_tokens=9, seed=3, top_p=0.9, stop_ids=(2, 4), stop=("\n",))
    with serving() as server:
        assert ask(server.url, sampling=sampling) == [Completion("fine", 3, "stop")]
    [(path, body)] = server.asked
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


def test_nothing_listening_is_an_error_that_says_how_to_start_it() -> None:
    with pytest.raises(ServerError, match=r"nothing answers at http.*; start it with `vllm serve wanted`"):
        ask(f"http://127.0.0.1:{free_port()}/v1")


def test_a_model_that_is_not_served_is_answered_with_what_is() -> None:
    cards = [{"id": "one"}, {"id": "two"}]
    with (
        serving(cards=cards) as server,
        pytest.raises(ServerError, match=r"does not serve 'wanted'.*one, two"),
    ):
        ask(server.url)
    with serving(cards=[{"id": "wanted:latest"}, {"id": "two"}]) as server:
        ask(server.url)
    assert server.asked[0][1]["model"] == "wanted:latest"


@pytest.mark.parametrize(
    "answers",
    [
        [Answer({"error": "busy"}, 500), Answer({"error": "busy"}, 503)],
        [Answer({"error": "slow down"}, 429, {"Retry-After": "0.01"}), Answer("late", 408)],
        [Answer(hang_up=True), Answer("<html>starting</html>")],
        [Answer({"error": "loading"}), Answer("[]")],
        [Answer(late=0.6), Answer(hang_up=True)],
    ],
)
def test_passing_trouble_is_tried_again(answers: list[Answer]) -> None:
    with serving(in_turn(*answers)) as server:
        assert ask(server.url, timeout=0.3) == [Completion("fine", 3, "stop")]
    assert len(server.asked) == 3


@pytest.mark.parametrize(("said", "kept"), [("2.5", 2.5), ("3600", 60.0), ("soon", 0.001)])
def test_a_wait_that_the_server_asks_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, said: str, kept: float
) -> None:
    waits: list[float] = []
    at_once = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await at_once(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    with serving(in_turn(Answer({}, 429, {"Retry-After": said}))) as server:
        assert ask(server.url) == [Completion("fine", 3, "stop")]
    assert kept / 2 <= max(waits) <= kept
    assert said == "soon" or max(waits) == kept


@pytest.mark.parametrize("trouble", [Answer({"error": "CUDA"}, 500), Answer(hang_up=True), Answer(late=0.6)])
def test_lasting_trouble_with_one_prompt_is_that_prompts_error(trouble: Answer) -> None:
    with serving(lambda body: trouble if body["prompt"][0] == 9 else well(body)) as server:
        [good, bad, fine] = ask(server.url, [1], [9, 9], [3], timeout=0.3)
    assert (good.text, fine.text) == ("fine", "fine")
    assert bad.finish_reason == "error"
    assert "failed 3 times on this prompt" in bad.error


def test_a_server_that_goes_away_stops_everyone() -> None:
    async def go() -> list[Any]:
        with serving() as server:
            engine = await ServerEngine.open(model(server.url))
            assert (await engine.complete(PROMPT, GREEDY)).text == "fine"
        asked = (engine.complete(PROMPT, GREEDY) for _ in range(5))
        told = await asyncio.gather(*asked, return_exceptions=True)
        await engine.close()
        return told

    told = asyncio.run(go())
    assert all(isinstance(error, ServerError) for error in told)
    assert "nothing answers" in str(told[0])


def test_a_server_that_fails_every_prompt_is_given_up() -> None:
    with serving(lambda body: Answer({"error": "no"}, 400)) as server:
        results = ask(server.url, *([i] * 2 for i in range(1, 40)), concurrency=1)
    assert sum(isinstance(result, Completion) for result in results) == 15
    assert all("16 prompts in a row" in str(result) for result in results[15:])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("<html><body>Welcome</body></html>"), "no JSON with `choices`"),
        (Answer("{broken"), "no JSON with `choices`"),
        (Answer({"object": "nothing"}), "no JSON with `choices`"),
        (Answer({"choices": []}), "no text, finish reason and token counts"),
        (Answer({"choices": [{"text": "x", "finish_reason": "stop"}]}), "token counts"),
        (Answer({"error": "who are you"}, 401), r"answers 401.*\$MAGPIE_API_KEY"),
        (Answer({"error": "gone"}, 404), "answers 404"),
    ],
)
def test_answers_that_are_no_completions_end_the_build(answer: Answer, says: str) -> None:
    with serving(lambda body: answer) as server:
        [error] = ask(server.url)
    assert isinstance(error, ServerError)
    with pytest.raises(ServerError, match=says):
        raise error


def test_a_page_that_is_no_server_is_named_at_once() -> None:
    with serving(cards="<html>") as server, pytest.raises(ServerError, match="does not list its models"):
        ask(server.url)


def test_a_chat_template_or_a_second_bos_is_found_out() -> None:
    with serving(lambda body: completion(prompt=len(body["prompt"]) + 11)) as server:
        told = ask(server.url, PROMPT, PROMPT)
    assert all("chat template or a second BOS" in str(error) for error in told)
    with serving(lambda body: completion(prompt=2)) as server:
        assert "cuts the prompt" in str(ask(server.url)[0])


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


def test_the_key_is_sent_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_TEST_KEY", "sk-very-secret")

    def tell(body: dict[str, Any]) -> Answer:
        return Answer({"error": "the key sk-very-secret may not do this"}, 403)

    with serving(tell) as server:
        url = server.url.replace("http://", "http://user:word@")
        [error] = ask(url, api_key_env="MAGPIE_TEST_KEY")
    assert server.authorization == ["Bearer sk-very-secret"]
    assert "MAGPIE_TEST_KEY" in str(error)
    assert not any(secret in str(error) for secret in ("very-secret", "user:word"))


def test_a_model_without_a_server_is_told_to_have_one() -> None:
    with pytest.raises(ServerError, match="has no server"):
        ServerEngine(Model(model="alone"), None)


@pytest.fixture(scope="module")
def demo() -> ModelFiles:
    try:
        return resolve(Model(model="demo"))
    except MagpieError as error:
        pytest.skip(f"the embedded model is not installed: {error}")


@pytest.fixture(scope="module")
def vllm_url(demo: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `vllm serve` in a process group of its own; the group is ended afterwards, to the last process."""
    pytest.importorskip("vllm")
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    options = (
        "--enforce-eager --dtype float32 --max-model-len 2048 --kv-cache-memory-bytes 1G --max-num-seqs 16"
    )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(demo.path)]
    command += ["--host", "127.0.0.1", "--port", str(port), *options.split()]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)
    try:
        wait_for_health(port, child, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end_group(child)


def wait_for_health(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(900):
        assert child.poll() is None, f"vllm serve ended early: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not come up: {log.read_text()[-2000:]}")


def members(group: int) -> set[int]:
    """The living processes of a process group, zombies aside."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def end_group(child: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 200)):
        if not members(child.pid):
            break
        os.killpg(child.pid, number)
        for _ in range(patience):
            child.poll()
            if not members(child.pid):
                break
            time.sleep(0.1)
    child.wait(timeout=30)
    assert not members(child.pid), "a process of vllm serve is still alive"


@pytest.mark.slow
def test_a_real_vllm_server_completes_stops_and_keeps_to_a_schema(demo: ModelFiles, vllm_url: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.path)

    def chat(question: str) -> list[int]:
        asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return list(tokenizer.encode(asked, add_special_tokens=False))

    def greedy(**settings: Any) -> Sampling:
        return Sampling(**({"max_tokens": 32, "seed": 0, "temperature": 0.0} | settings))

    france = chat("What is the capital of France?")
    schema = {
        "type": "object",
        "properties": {"quality": {"enum": ["poor", "good"]}},
        "required": ["quality"],
    }
    paris = tokenizer.encode(" Paris", add_special_tokens=False)[0]
    settings = Model(model="demo", server=Server(url=vllm_url))

    async def go() -> list[Completion]:
        engine = await ServerEngine.open(settings, demo)
        assert engine.model.context_length == 2048
        try:
            return await asyncio.gather(
                engine.complete(france, greedy()),
                engine.complete(france, greedy(stop_ids=(paris,))),
                engine.complete(france, greedy(stop=("Paris",))),
                engine.complete(france, greedy(max_tokens=3)),
                engine.complete(france, greedy(schema=json.dumps(schema))),
                engine.complete(france, Sampling(max_tokens=16, seed=1)),
                engine.complete(france, Sampling(max_tokens=16, seed=1)),
            )
        finally:
            await engine.close()

    whole, by_id, by_text, cut, kept, drawn, again = asyncio.run(go())
    assert "Paris" in whole.text
    assert (by_id.finish_reason, by_text.finish_reason, cut.finish_reason) == ("stop", "stop", "length")
    assert whole.text.startswith(by_id.text)
    assert "Paris" not in by_id.text + by_text.text
    assert cut.token_count == 3
    assert json.loads(kept.text)["quality"] in {"poor", "good"}
    assert drawn == again
