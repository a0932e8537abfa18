"""Servers with odd habits, each as one answers in the wild: what of it is read, what is a row's error, what ends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asking import ask
from loopback import Answer, serving

from magpie.engines.base import Completion, Sampling
from magpie.errors import ServerError
from magpie.replies import json_object

TEXT = "How would I tell a heron from a wren?"
PLAIN = Sampling(max_tokens=64, seed=0, temperature=0.0)
JUDGED = Sampling(
    max_tokens=64,
    seed=0,
    temperature=0.0,
    schema=json.dumps({"type": "object", "properties": {"knowledge": {"type": "string"}}}),
)
LABEL = {"knowledge": 'to "know" birds\nand more', "tags": []}


def said(text: Any = TEXT, reason: Any = "stop", usage: Any = (4, 9), **more: Any) -> dict[str, Any]:
    """An answer of /v1/completions, whatever its parts are."""
    counts = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True)) if usage else None
    body = {"choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]}
    return body | ({"usage": counts} if counts else {}) | more


def told(body: Any, sampling: Sampling = PLAIN) -> Any:
    with serving(lambda _: Answer(body), cards=[{"id": "wanted", "owned_by": "someone"}]) as server:
        [result] = ask(server.url, sampling=sampling, retries=0)
    return result


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        (said(), TEXT, "stop"),
        (said(reason=None), TEXT, "stop"),
        (said(reason=None, usage=(4, 64)), TEXT, "length"),
        (said(reason="eos_token"), TEXT, "stop"),
        (said(TEXT + " \ud83d"), TEXT + " \ufffd", "stop"),
        (said("\ud83d\ude00"), "\N{GRINNING FACE}", "stop"),
        (said("How \x00would"), "How \ufffdwould", "stop"),
        (said("\x1b[31mHow"), "\x1b[31mHow", "stop"),  # kept in the data; escaped where it is printed
        (said(usage=(4.0, 9.0)), TEXT, "stop"),
    ],
    ids=["ok", "nofinish", "nofinish-full", "eosfinish", "surrogate", "pair", "nul", "esc", "whole-floats"],
)
def test_what_can_be_read_is_read(body: Any, text: str, reason: str) -> None:
    result = told(body)
    assert isinstance(result, Completion)
    assert (result.text, result.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (said(None), "text is null"),
        (said({"a": 1}), "text is an object"),
        (said(["a"]), "text is a list"),
        (said(7), "text is a number"),
        (said(reason=3), "finish reason is a number"),
        (said(reason="content_filter"), "'content_filter'"),
        (said(usage=(4, 10**12)), "counts completion tokens as 1000000000000"),
        (said(usage=(4, -1)), "counts completion tokens as -1"),
        (said(usage=(4, "9")), "counts completion tokens as a text"),
        (said(usage=(4, True)), "counts completion tokens as"),
        (said() | {"choices": []}, "no choices"),
        ('{"choices": [{"text": "x"}], "usage": {"prompt_tokens": 4, "completion_tokens": 1e999}}', "inf"),
    ],
    ids=[
        "nulltext",
        "object",
        "list",
        "number",
        "reason",
        "filter",
        "huge",
        "negative",
        "text",
        "truth",
        "empty",
        "infinite",
    ],
)
def test_what_says_nothing_of_use_is_that_rows_error(body: Any, says: str) -> None:
    result = told(body)
    assert isinstance(result, Completion)
    assert result.finish_reason == "error"
    assert says in result.error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (said(usage=None), "without `usage`"),
        (said(usage=("4", "9")), "counts prompt tokens as a text"),
        ('data: {"choices": [{"text": "How"}]}\n\ndata: [DONE]\n\n', "no JSON with `choices`"),
        ({"error": {"message": "the model is not loaded"}}, "with an error: the model is not loaded"),
        ({"error": "no memory"}, "with an error: no memory"),
        ("[" * 100_000, "no JSON with `choices`"),
        ("<html>Welcome</html>", "no JSON with `choices`"),
    ],
    ids=["nousage", "strusage", "sse", "error-object", "error-text", "deep", "page"],
)
def test_before_a_good_completion_what_is_no_completion_is_the_servers(body: Any, says: str) -> None:
    result = told(body)
    assert isinstance(result, ServerError)
    assert says in str(result)
    assert "\n" not in str(result)


@pytest.mark.parametrize(
    "odd",
    [
        "<html>502</html>",
        {"error": {"message": "out of slots"}},
        'data: {"choices": []}\n\n',
        said(usage=None),
        {"choices": [{"message": {"content": "chat"}}], "usage": {"prompt_tokens": 4}},
        {"choices": {}},
    ],
    ids=["page", "error", "sse", "nousage", "chat", "no-list"],
)
def test_after_one_it_is_that_rows_and_sixteen_in_a_row_end_the_build(odd: Any) -> None:
    cards = [{"id": "wanted", "owned_by": "someone"}]
    with serving(lambda body: Answer(odd if body["prompt"][0] == 9 else said()), cards=cards) as server:
        results = ask(server.url, [1] * 4, [9] * 4, [2] * 4, concurrency=1, retries=1)
        assert [result.finish_reason for result in results] == ["stop", "error", "stop"]
        assert "\n" not in results[1].error
        many = ask(server.url, [1] * 4, *([9] * 4 for _ in range(16)), concurrency=1, retries=0)
    assert isinstance(many[-1], ServerError)
    assert "16 prompts in a row" in str(many[-1])


def test_a_redirect_says_where_it_points() -> None:
    def elsewhere(body: dict[str, Any]) -> Answer:
        return Answer("moved", 307, {"Location": "https://login.example/sign-in"})

    with serving(elsewhere) as server:
        [result] = ask(server.url, retries=0)
    assert isinstance(result, ServerError)
    assert "answers 307 and points to https://login.example/sign-in" in str(result)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(LABEL),
        f"```json\n{json.dumps(LABEL, indent=1)}\n```",
        repr(LABEL),
        f"<think>The user {{wants}} a label.</think>\n{json.dumps(LABEL)}",
        json.dumps(LABEL)[:-1] + ",}",
    ],
    ids=["ok", "fenced", "pydict", "think", "comma"],
)
def test_a_judges_object_is_read_however_it_is_wrapped(text: str) -> None:
    result = told(said(text), JUDGED)
    assert result.finish_reason == "stop"
    assert json_object(result.text) == LABEL


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'{"a": "find \alpha and \(x\)"}', r"find \alpha and \(x\)"),
        (r'{"a": "one \\beta, two \gamma"}', r"one \beta, two \gamma"),
        (r"""{"a": "it\'s \sigma", }""", r"it's \sigma"),
        (r"{'a': 'it\'s a caf\xe9'}", "it's a café"),
        (r'{"a": "a\nb\u00e9"}', "a\nbé"),
        (r'{"a": "\xi and \underline{x}"}', r"\xi and \underline{x}"),
        (r"{'a': 'it\'s \u00e9 and \xi'}", r"it's é and \xi"),
        (r'{"a": "1\/2 \sigma"}', r"1/2 \sigma"),
    ],
)
def test_backslashes_that_escape_nothing_stand_for_themselves(written: str, read: str) -> None:
    assert json_object(written) == {"a": read}


@pytest.mark.parametrize("length", ["abc", -1, 1e999, [], True, 10**30])
def test_a_context_that_is_no_number_of_tokens_is_the_servers(length: Any) -> None:
    cards = [{"id": "wanted", "owned_by": "vllm", "max_model_len": length}]
    with serving(cards=cards) as server, pytest.raises(ServerError, match="no number of tokens"):
        ask(server.url)
