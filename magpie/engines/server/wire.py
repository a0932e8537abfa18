"""The wire format: requests and answers of `/v1/completions`, and of Ollama's `/api/generate`."""

from __future__ import annotations

import json
from typing import Any, Literal

from magpie.engines.base import REPEATED_TIMES, REPEATED_UNIT, Completion, Control, FinishReason, Sampling

Kind = Literal["vllm", "sglang", "llamacpp", "ollama", "other"]

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
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
        "stop": stops,
    }
    body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "think": False}
    format_ = {} if sampling.schema is None else {"format": json.loads(sampling.schema)}
    return body | {"options": options} | format_


def read(answer: dict[str, Any]) -> tuple[str, Any, int, int]:
    """Text, finish reason, tokens written and prompt tokens counted."""
    choice, usage = answer["choices"][0], answer["usage"]
    return (
        str(choice["text"]),
        choice["finish_reason"],
        int(usage["completion_tokens"]),
        int(usage["prompt_tokens"]),
    )


def read_raw(answer: dict[str, Any], sent: int) -> tuple[str, Any, int, int]:
    """The same from Ollama."""
    # Ollama may leave prompt tokens that it had in its cache out of its count, so a lower count proves nothing.
    counted = max(int(answer.get("prompt_eval_count", sent)), sent)
    return str(answer["response"]), answer["done_reason"], int(answer.get("eval_count", 0)), counted


def completion(text: str, reason: Any, count: int, sampling: Sampling) -> Completion:
    """A Completion of what was read: an error where the finish reason is unknown, or the schema was ignored."""
    finish_reason = _REASONS.get(str(reason))
    if finish_reason is None:
        return Completion(text, count, "error", f"the server ended the completion with {reason!r}")
    if sampling.schema is not None and finish_reason == "stop":
        try:
            json.loads(text)
        except ValueError:
            problem = "the server did not keep to the schema; use vLLM or llama.cpp"
            return Completion(text, count, "error", problem)
    return Completion(text, count, finish_reason)
