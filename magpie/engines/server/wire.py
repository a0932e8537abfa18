"""The wire format: requests and answers of `/v1/completions`, and of Ollama's `/api/generate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from magpie.engines.base import REPEATED_TIMES, REPEATED_UNIT, Completion, Control, FinishReason, Sampling
from magpie.replies import described, json_object, whole_number

_MOST_TOKENS = 1 << 20
"""Tokens that a server may put around a prompt: more is no count."""

Kind = Literal["vllm", "sglang", "llamacpp", "ollama", "other"]

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "repetition": "repetition",
}


def controls(description: dict[str, Any]) -> frozenset[Control]:
    """The controls of a vLLM server, by its /openapi.json."""
    # An older vLLM would ignore a field it does not know without a word, so the description decides.
    try:
        fields = description["components"]["schemas"]["CompletionRequest"]["properties"]
        return frozenset({"stop_repetition"} if "repetition_detection" in fields else ())
    except (KeyError, TypeError):
        return frozenset()


def body(
    kind: Kind, model: str, prompt: list[int] | str, sampling: Sampling, stops: list[str]
) -> dict[str, Any]:
    """A /v1/completions request."""
    # Neutral values are sent too, since servers have defaults of their own.
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": sampling.presence_penalty,
        "stop": stops,
        "stop_token_ids": list(sampling.stop_ids),
        "skip_special_tokens": False,
        "add_special_tokens": False,
    }
    # Greedy decoding draws nothing.
    if sampling.temperature > 0:
        body["seed"] = sampling.seed
    if sampling.stop_repetition:
        sizes = dict(zip(("min_pattern_size", "max_pattern_size"), REPEATED_UNIT, strict=True))
        body["repetition_detection"] = sizes | {"min_count": REPEATED_TIMES}
    if sampling.schema is None:
        return body
    schema = json.loads(sampling.schema)
    if kind == "vllm":
        return body | {"structured_outputs": {"json": schema, "disable_any_whitespace": True}}
    if kind in {"sglang", "llamacpp"}:
        return body | {"json_schema": sampling.schema if kind == "sglang" else schema}
    # An unknown server: OpenAI's form, and that of older vLLM versions. Both may be ignored; `completion` checks.
    wrapped = {"name": "completion", "schema": schema, "strict": True}
    return body | {"response_format": {"type": "json_schema", "json_schema": wrapped}, "guided_json": schema}


def raw_body(
    model: str, context_length: int, prompt: list[int] | str, sampling: Sampling, stops: list[str]
) -> dict[str, Any]:
    """An Ollama /api/generate request that puts nothing around the prompt."""
    options = {
        "num_ctx": context_length,
        "num_predict": sampling.max_tokens,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": 1.0,
        "presence_penalty": sampling.presence_penalty,
        "stop": stops,
    }
    body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "think": False}
    format_ = {} if sampling.schema is None else {"format": json.loads(sampling.schema)}
    return body | {"options": options} | format_


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said for one prompt. `counted` are the prompt's tokens as the server counts them."""

    text: str
    reason: str | None
    written: int
    counted: int


class BadReplyError(Exception):
    """The answer to one prompt is no completion; other prompts may have better ones."""


class BadServerError(Exception):
    """The server does not answer as a completion server does, whatever the prompt."""


def read(answer: dict[str, Any], sent: int, limit: int) -> Reply:
    """The reply in an answer of /v1/completions, to `sent` prompt tokens and with room for `limit` more.

    Raises BadReplyError for one that says nothing of use, BadServerError for one of another kind of server.
    """
    choices = answer["choices"]
    if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
        raise BadServerError("answers with `choices` that are no list of objects")
    if not choices:
        raise BadReplyError("the server answered with no choices")
    choice, usage = choices[0], answer.get("usage")
    if "text" not in choice:
        raise BadServerError("answers with `choices` but no text, as a chat server does")
    if not isinstance(usage, dict):
        raise BadServerError("answers without `usage`, so that nobody can tell whether it adds to the prompt")
    # A prompt has its own tokens, and at most a template around them.
    counted = whole_number(usage.get("prompt_tokens"), most=sent + _MOST_TOKENS)
    if counted is None:
        raise BadServerError(f"counts prompt tokens as {_shown(usage.get('prompt_tokens'))}")
    return Reply(
        _text_of(choice["text"]),
        _reason_of(choice.get("finish_reason")),
        _written(usage.get("completion_tokens"), limit),
        counted,
    )


def read_raw(answer: dict[str, Any], sent: int, limit: int) -> Reply:
    """The same for Ollama's /api/generate."""
    # Ollama may leave prompt tokens that it had in its cache out of its count, so a lower count proves nothing.
    counted = whole_number(answer.get("prompt_eval_count", sent), most=sent + _MOST_TOKENS)
    if counted is None:
        raise BadServerError(f"counts prompt tokens as {_shown(answer.get('prompt_eval_count'))}")
    return Reply(
        _text_of(answer["response"]),
        _reason_of(answer.get("done_reason")),
        _written(answer.get("eval_count", 0), limit),
        max(counted, sent),
    )


def completion(reply: Reply, sampling: Sampling) -> Completion:
    """A Completion of a reply: an error where the finish reason is unknown, or the schema was ignored."""
    if reply.reason is None:
        # Some servers give no reason: whether there was room for more decides.
        finish_reason: FinishReason | None = "length" if reply.written >= sampling.max_tokens else "stop"
    else:
        finish_reason = _REASONS.get(reply.reason)
    if finish_reason is None:
        problem = f"the server ended the completion with {reply.reason[:80]!r}" if reply.reason else ""
        return Completion(reply.text, reply.written, "error", problem)
    if sampling.schema is not None and finish_reason == "stop" and json_object(reply.text) is None:
        problem = "the server did not keep to the schema; use vLLM or llama.cpp"
        return Completion(reply.text, reply.written, "error", problem)
    return Completion(reply.text, reply.written, finish_reason)


def _text_of(value: object) -> str:
    if not isinstance(value, str):
        raise BadReplyError(f"the server's text is {described(value)}")
    return value


def _reason_of(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadReplyError(f"the server's finish reason is {described(value)}")
    return value


def _written(value: object, limit: int) -> int:
    # One more than was asked for: some servers count the stop token.
    written = whole_number(value, most=limit + 1)
    if written is None:
        raise BadReplyError(f"the server counts completion tokens as {_shown(value)}, of at most {limit}")
    return written


def _shown(value: object) -> str:
    return f"{value!r}"[:40] if isinstance(value, int | float) else described(value)
