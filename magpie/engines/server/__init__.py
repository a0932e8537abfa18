"""Completions from a server that speaks OpenAI's `/v1/completions`: vLLM, SGLang, llama.cpp and Ollama among them.

The prompt is sent as token ids and is raw: never a chat. A server that refuses ids gets the same prompt as text, and
either way the prompt tokens it counts must be those sent, or a chat template or a second BOS is around them.

What goes wrong is one of two things. One prompt's failure (a timeout or a 5xx that outlasts the retries while the
server still lists its models; a 4xx about that prompt) is a Completion whose finish_reason is "error". The server's
failure (nothing listens, no right to use it, answers that are no completions, a prompt count that is off, sixteen
failed prompts in a row) is a ServerError, at once and for every later call, so that a build stops with one clear
line and does not reject every row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from magpie.engines.base import Capabilities, Completion, Control, EngineSpec, ModelInfo, Sampling, misfit
from magpie.engines.server import wire
from magpie.engines.server.client import JsonClient, RefusedError, RequestError
from magpie.errors import ModelError, ServerError

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

Decode = Callable[[Sequence[int]], str]
_Form = Literal["ids", "text", "text after BOS"]

_FAILED_IN_A_ROW = 16

_log = logging.getLogger(__name__)


class ServerEngine:
    """An Engine that asks a server; made by `open`, which first looks whether it is there and serves the model.

    The server is told apart by what it says of itself. vLLM (0.12 and later) gets a schema as
    `structured_outputs`, SGLang and llama.cpp as `json_schema`, Ollama as `format`, any other as `response_format`
    and `guided_json`, which it may ignore: a completion that then is no JSON ends in an error. `stop_token_ids` and
    `skip_special_tokens` are honoured by vLLM and SGLang; the rest get the texts of the stop ids as string stops,
    and show special tokens in a completion only if they were started to (llama.cpp: `--special`). Ollama puts the
    model's template around `/v1/completions`, so its own `/api/generate` is used with `raw: true`.

    `stop_repetition` is done by a vLLM whose /openapi.json describes `repetition_detection`. No server does anything
    to a first token alone: `hold_back` and `first_token_divisor` are refused with a ServerError.

    `decode` turns ids into text with special tokens visible, for a server that refuses ids; without it the tokenizer
    in `files` does. `bos_id` is the id left out where the server puts a BOS of its own in front of text.
    """

    def __init__(
        self,
        model: Model,
        files: ModelFiles | None,
        *,
        decode: Decode | None = None,
        bos_id: int | None = None,
    ) -> None:
        if model.server is None:
            advice = "give it `server: {url: http://host:8000/v1}`"
            raise ServerError(f"model {model.model!r} has no server to ask; {advice}")
        self._recipe, self._files = model, files
        self._decode, self._bos_id = decode, bos_id
        self._client = JsonClient(model.server, start=f"vllm serve {model.model}")
        self._slots = asyncio.Semaphore(model.server.concurrency)
        self._first = asyncio.Lock()
        self._kind: wire.Kind = "other"
        self._form: _Form | None = None
        self._failed = 0
        self._lost: ServerError | None = None
        self._served = model.model
        self._info = ModelInfo(
            name=model.model,
            revision=files.revision if files is not None else "as served",
            engine="server",
            context_length=model.context_length,
            slots=model.server.concurrency,
            controls=frozenset(),
        )

    @classmethod
    async def open(
        cls,
        model: Model,
        files: ModelFiles | None = None,
        *,
        decode: Decode | None = None,
        bos_id: int | None = None,
    ) -> ServerEngine:
        """An engine whose server answers and serves the model. Raises ServerError that says what to do."""
        engine = cls(model, files, decode=decode, bos_id=bos_id)
        try:
            await engine._look()
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def model(self) -> ModelInfo:
        return self._info

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion of `prompt`, token ids.

        Raises ServerError when the server is lost to every prompt, or cannot do what `sampling` asks for.
        """
        if beyond := sampling.controls - self._info.controls:
            raise self._client.fault(
                f"cannot do `{'`, `'.join(sorted(beyond))}`; use --engine vllm or transformers, or take it out"
            )
        if trouble := misfit(len(prompt), self._info.context_length):
            return Completion("", 0, "error", trouble)
        room = self._info.context_length - len(prompt)
        async with self._slots:
            try:
                completion = await self._ask(
                    prompt, replace(sampling, max_tokens=min(sampling.max_tokens, room))
                )
            except RequestError as error:
                completion = Completion("", 0, "error", str(error))
            except ServerError as error:
                self._lost = error
                raise
        self._failed = self._failed + 1 if completion.finish_reason == "error" else 0
        if self._failed >= _FAILED_IN_A_ROW:
            last = f"failed on {self._failed} prompts in a row, the last time so: {completion.error}"
            self._lost = self._client.fault(f"{last}; read its log and start it again")
            raise self._lost
        return completion

    async def close(self) -> None:
        await self._client.close()

    async def _look(self) -> None:
        """Find out who serves, and under which name."""
        try:
            listed = (await self._client.ask("GET", "models", needs="data"))["data"]
            served = {str(card["id"]): card for card in listed}
        except (RequestError, TypeError, KeyError) as error:
            what = "does not list its models; let `server.url` be the /v1 of a completion server"
            raise self._client.fault(what) from error
        wanted = self._recipe.model
        name = next((n for n in (wanted, f"{wanted}:latest") if n in served), None)
        if name is None and len(served) != 1:
            known = ", ".join(served) or "none"
            raise self._client.fault(f"does not serve {wanted!r}; set `model` to one that it serves: {known}")
        self._served = name or next(iter(served))
        card = served[self._served]
        self._kind = await self._who(card)
        length = self._recipe.context_length
        self._info = replace(
            self._info,
            engine="server" if self._kind == "other" else f"server ({self._kind})",
            context_length=min(length, card.get("max_model_len") or length),
            controls=await self._controls(),
        )

    async def _who(self, card: dict[str, Any]) -> wire.Kind:
        for kind in ("vllm", "sglang", "llamacpp"):
            if card.get("owned_by") == kind:
                return kind
        version = await self._client.peek(f"{self._root}/api/version")
        return "ollama" if "version" in version else "other"

    async def _controls(self) -> frozenset[Control]:
        if self._kind != "vllm":
            return frozenset()
        return wire.controls(await self._client.peek(f"{self._root}/openapi.json"))

    @property
    def _root(self) -> str:
        return self._client.url.removesuffix("/v1")

    async def _ask(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        if self._form is None:
            async with self._first:  # the first prompt finds out, alone, in which form the server takes it
                if self._form is None and self._lost is None:
                    return await self._settle(prompt, sampling)
        if self._lost is not None or self._form is None:
            raise ServerError(str(self._lost)) from self._lost
        completion, count = await self._send(self._form, prompt, sampling)
        if count == len(prompt):
            return completion
        if self._form == "ids":
            raise self._client.fault(_miscount(count, len(prompt)))
        raise RequestError(f"as text this prompt is {count} tokens to the server, not {len(prompt)}")

    async def _settle(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """Complete the first prompt, and keep to the form in which the server took it whole."""
        form: _Form = "ids" if self._kind != "ollama" else "text"
        try:
            completion, count = await self._send(form, prompt, sampling)
        except RefusedError as error:
            if form == "text" or not self._can_decode():
                raise
            _log.info("%s takes no token ids (%s); sending text", self._client.url, error)
            form = "text"
            completion, count = await self._send(form, prompt, sampling)
        if form == "text" and count == len(prompt) + 1 and prompt[0] == self._bos_id:
            form = "text after BOS"
            completion, count = await self._send(form, prompt, sampling)
        if count != len(prompt):
            raise self._client.fault(_miscount(count, len(prompt)))
        self._form = form
        return completion

    async def _send(self, form: _Form, prompt: Sequence[int], sampling: Sampling) -> tuple[Completion, int]:
        """The completion, and how many prompt tokens the server counted."""
        written: list[int] | str = list(prompt)
        if form != "ids":
            written = self._text(prompt if form == "text" else prompt[1:])
        stops = self._stops(sampling)
        if self._kind == "ollama":
            body = wire.raw_body(self._served, self._info.context_length, written, sampling, stops)
            path, needs = f"{self._root}/api/generate", "response"
        else:
            body = wire.body(self._kind, self._served, written, sampling, stops)
            path, needs = "completions", "choices"
        answer = await self._client.ask("POST", path, body, needs=needs, seed=sampling.seed)
        try:
            read = wire.read_raw(answer, len(prompt)) if needs == "response" else wire.read(answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"answers with `{needs}` but no text, finish reason and token counts"
            raise self._client.fault(f"{what}; let `server.url` be the /v1 of a completion server") from error
        text, reason, count, counted = read
        return wire.completion(text, reason, count, sampling), counted

    def _stops(self, sampling: Sampling) -> list[str]:
        stops = list(sampling.stop)
        if self._kind not in {"vllm", "sglang"} and self._can_decode():
            stops += [text for i in sampling.stop_ids if (text := self._text([i])) and text not in stops]
        return stops

    def _can_decode(self) -> bool:
        return self._decode is not None or self._files is not None

    def _text(self, ids: Sequence[int]) -> str:
        if self._decode is None:
            if self._files is None:
                raise self._client.fault(
                    "takes text only; name the model whose tokenizer can write the ids as text"
                )
            self._decode, bos_id = _tokenizer(self._files, self._recipe)
            self._bos_id = bos_id if self._bos_id is None else self._bos_id
        return self._decode(ids)


def _miscount(counted: int, sent: int) -> str:
    counts = f"counts {counted} prompt tokens where {sent} were sent"
    if counted > sent:
        return (
            f"{counts}: it puts a chat template or a second BOS around the prompt; use a server whose "
            "/v1/completions is raw and takes token ids, such as `vllm serve`"
        )
    return (
        f"{counts}: it cuts the prompt or has another tokenizer; serve the very model the recipe names, with a "
        "context as long as the recipe's"
    )


def _tokenizer(files: ModelFiles, model: Model) -> tuple[Decode, int | None]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"no tokenizer for {files.name!r}; the server takes text, so one is needed"
        ) from error

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return decode, tokenizer.bos_token_id


def _problem(model: Model, place: str) -> str | None:
    if model.server is not None:
        return None
    return (
        f"`{place}` is asked of a server and `{place}.server.url` is missing; "
        "add it, such as http://127.0.0.1:8000/v1"
    )


SPEC = EngineSpec(
    name="server",
    # Nobody outside a server gets at its logits. `stop_repetition` is found out when it is opened.
    capabilities=Capabilities(scores=False, controls=frozenset({"stop_repetition"}), loads_weights=False),
    open=ServerEngine.open,
    problem=_problem,
)
