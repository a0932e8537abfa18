"""The server engine and servers that misbehave: what is tried again, what is a row's error, what ends the build."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asking import GREEDY, PROMPT, ask, free_port, in_turn, model, noted_waits
from loopback import Answer, completion, serving, well

from magpie.engines.base import Completion
from magpie.engines.server import ServerEngine
from magpie.errors import RecipeError, ServerError
from magpie.recipe import Model


def test_nothing_listening_is_an_error_that_says_how_to_start_it() -> None:
    with pytest.raises(ServerError, match=r"nothing answers at http.*; start it with `magpie serve wanted`"):
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


@pytest.mark.parametrize(("said", "kept"), [("2.5", 2.5), ("3600", 60.0), ("soon", 0.5)])
def test_a_wait_that_the_server_asks_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, said: str, kept: float
) -> None:
    waits = noted_waits(monkeypatch)
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


@pytest.mark.parametrize(
    "trouble",
    [
        Answer("<html>hello</html>"),
        Answer(hang_up=True),
        Answer({"error": "CUDA"}, 500),
        Answer({"error": "no"}, 400),
        Answer({"choices": []}),
    ],
)
def test_a_server_that_completes_nothing_any_more_costs_no_row(trouble: Answer) -> None:
    """From the first prompt on that it fails on, although it still lists its models."""
    asked = list[Any]()

    def for_a_while(body: Any) -> Answer:
        asked.append(body)
        return well(body) if len(asked) <= 3 else trouble

    with serving(for_a_while) as server:
        results = ask(server.url, *([i] for i in range(1, 10)), concurrency=1)
    assert [type(result) for result in results] == [Completion] * 3 + [ServerError] * 6
    assert {result.finish_reason for result in results[:3]} == {"stop"}
    assert "completes nothing any more, not even what it has completed before" in str(results[3])


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
        (Answer({"choices": {}}), "no list of objects"),
        (Answer({"choices": [{"message": {"content": "x"}}]}), "no text, as a chat server does"),
        (Answer({"choices": [{"text": "x", "finish_reason": "stop"}]}), "without `usage`"),
        (Answer({"error": "who are you"}, 401), r"answers 401.*\$MAGPIE_API_KEY"),
        (Answer({"error": "gone"}, 404), "answers 404"),
        (Answer({"error": "no credit"}, 402), r"answers 402.*pay its bill.*\$MAGPIE_API_KEY"),
        (Answer("who are you", 407), "answers 407.*the proxy"),
        (Answer({"error": "retired"}, 410), "answers 410"),
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


def test_the_key_is_sent_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_TEST_KEY", "sk-very-secret")

    def tell(body: dict[str, Any]) -> Answer:
        return Answer({"error": "the key sk-very-secret may not do this"}, 403)

    with serving(tell) as server:
        [error] = ask(server.url, api_key_env="MAGPIE_TEST_KEY")
    assert server.authorization == ["Bearer sk-very-secret"]
    assert "MAGPIE_TEST_KEY" in str(error)
    assert "very-secret" not in str(error)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(RecipeError, match="holds a user name or a password") as caught:
        ask("http://user:pass-word@127.0.0.1:1/v1")
    assert "pass-word" not in str(caught.value)
    with pytest.raises(RecipeError, match="goes on after its path") as caught:
        ask("http://127.0.0.1:1/v1?api-key=pass-word")
    assert "pass-word" not in str(caught.value)


def test_a_model_without_a_server_is_told_to_have_one() -> None:
    with pytest.raises(ServerError, match="has no server"):
        ServerEngine(Model(model="alone"), None)
