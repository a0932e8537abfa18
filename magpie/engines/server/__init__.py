"""Completions from a server with OpenAI's `/v1/completions`: vLLM, SGLang, llama.cpp, Ollama and others.

The raw prompt is sent, never a chat: as token ids, or as text to a server that refuses ids. Either way the server must
count as many prompt tokens as were sent. Otherwise it puts a chat template or a second BOS around them.

There are two kinds of failure. Failure of one prompt (a timeout or a 5xx that outlasts the retries while the server
still lists its models, and still completes a prompt that it has completed before; a 4xx about that prompt) is a
Completion whose finish_reason is "error". Failure of the server (nothing listens, access denied, answers that are not
completions, a wrong prompt count, sixteen failed prompts in a row) is a ServerError, at once and for every later call,
so that a build stops with one clear line instead of rejecting every row.
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
from magpie.errors import ServerError
from magpie.replies import described, whole_number

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

Decode = Callable[[Sequence[int]], str]
_Form = Literal["ids", "text", "text after BOS"]

_FAILED_IN_A_ROW = 16

_log = logging.getLogger(__name__)


class ServerEngine:
    """An Engine that sends its prompts to a server. Make it with `open`, which checks that the server has the model.

    The kind of server is read from its own answers. A schema goes to vLLM (0.12 and later) as `structured_outputs`, to
    SGLang and llama.cpp as `json_schema`, to Ollama as `format`, and to any other as `response_format` and
    `guided_json`. A server may ignore it: a completion that then is not JSON is an error. `stop_token_ids` and
    `skip_special_tokens` are supported by vLLM and SGLang. The others get the texts of the stop ids as stop strings,
    and show special tokens in a completion only if they were started with that option (llama.cpp: `--special`). Ollama
    puts the model's template around `/v1/completions`, so its own `/api/generate` is used with `raw: true`.

    `stop_repetition` works with a vLLM whose /openapi.json describes `repetition_detection`. No server can change the
    first token alone: `hold_back` and `first_token_divisor` are refused with a ServerError.

    `decode` turns ids into text with special tokens visible, for a server that refuses ids; without it the tokenizer
    in `files` is used. `bos_id` is left out of the prompt where the server puts a BOS of its own before text.
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
        self._client = JsonClient(model.server, start=f"magpie serve {model.model}")
        self._slots = asyncio.Semaphore(model.server.concurrency)
        self._finding_form = asyncio.Lock()
        self._kind: wire.Kind = "other"
        self._form: _Form | None = None
        self._failed_in_a_row = 0
        self._answered: tuple[Sequence[int], Sampling] | None = None  # the last prompt that was completed
        self._lost: ServerError | None = None
        self._served_name = model.model
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
        """An engine whose server answers and serves the model. Raises ServerError with what to do next."""
        engine = cls(model, files, decode=decode, bos_id=bos_id)
        try:
            await engine._check_server()
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def model(self) -> ModelInfo:
        return self._info

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion of `prompt`, token ids.

        Raises ServerError when the server fails as a whole, or cannot do what `sampling` asks for.
        """
        if unsupported := sampling.controls - self._info.controls:
            raise self._client.error(
                f"cannot do `{'`, `'.join(sorted(unsupported))}`; use --engine vllm or transformers, or take it out"
            )
        if problem := misfit(len(prompt), self._info.context_length):
            return Completion("", 0, "error", problem)
        # Some servers refuse a request whose limit does not fit into the context.
        room = self._info.context_length - len(prompt)
        async with self._slots:
            try:
                fitting = replace(sampling, max_tokens=min(sampling.max_tokens, room))
                completion = await self._completed(prompt, fitting)
            except ServerError as error:
                self._lost = error
                raise
        # One bad prompt is a row's error. When every prompt fails, the fault is the server's or the recipe's.
        self._failed_in_a_row = self._failed_in_a_row + 1 if completion.finish_reason == "error" else 0
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            count = f"failed on {self._failed_in_a_row} prompts in a row"
            advice = "read its log and start it again"
            self._lost = self._client.error(f"{count}, the last time with: {completion.error}; {advice}")
            raise self._lost
        return completion

    async def _completed(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The completion, or the error of this prompt. Raises ServerError where the server fails on others as well."""
        try:
            completion = await self._request(prompt, sampling)
        except RequestError as error:
            await self._check_that_it_answers(error)
            return Completion("", 0, "error", str(error))
        if completion.finish_reason != "error":
            self._answered = prompt, sampling
        return completion

    async def _check_that_it_answers(self, failure: RequestError) -> None:
        """Raise ServerError where the server fails on a prompt, too, that it has completed before.

        It may list its models and answer nothing else. Then the rows in flight are not to blame, and none is rejected.
        """
        if self._answered is None or self._form is None:
            return
        try:
            await self._send(self._form, *self._answered)
        except RequestError:
            raise self._client.error(
                f"completes nothing any more, not even what it has completed before: {failure}; read its log and "
                "start it again, then run the same command again: no row is lost"
            ) from failure

    async def close(self) -> None:
        await self._client.close()

    async def _check_server(self) -> None:
        """Find the kind of server, its name for the model, its context length and its controls."""
        problem = "does not list its models; set `server.url` to the /v1 of a completion server"
        try:
            cards = (await self._client.request("GET", "models", needs="data"))["data"]
        except RequestError as error:
            raise self._client.error(problem) from error
        if not isinstance(cards, list):
            raise self._client.error(problem)
        named = (card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str))
        served = {card["id"]: card for card in named}
        self._served_name = self._name_among(served)
        card = served[self._served_name]
        self._kind = await self._find_kind(card)
        length = self._recipe.context_length
        self._info = replace(
            self._info,
            engine="server" if self._kind == "other" else f"server ({self._kind})",
            context_length=min(length, self._served_length(card) or length),
            controls=await self._find_controls(),
        )

    def _name_among(self, served: dict[str, Any]) -> str:
        """The name under which the server has the model. Raises ServerError."""
        asked = self._recipe.server.model if self._recipe.server is not None else None
        wanted = asked or self._recipe.model
        # Ollama lists a model with its tag.
        name = next((name for name in (wanted, f"{wanted}:latest") if name in served), None)
        # A server of one model may list it under the path it was started with.
        if name is None and len(served) == 1 and asked is None:
            name = next(iter(served))
        if name is None:
            names = ", ".join(served) or "none"
            raise self._client.error(
                f"does not serve {wanted!r}; set `server.model` to one that it serves: {names}"
            )
        return name

    def _served_length(self, card: dict[str, Any]) -> int | None:
        """The context that the server gives the model, None where it does not say. Raises ServerError."""
        value = card.get("max_model_len")
        length = whole_number(value, most=1 << 31)
        if value is not None and not length:
            raise self._client.error(
                f"says that `max_model_len` is {described(value)} and no number of tokens; start it again"
            )
        return length

    async def _find_kind(self, card: dict[str, Any]) -> wire.Kind:
        for kind in ("vllm", "sglang", "llamacpp"):
            if card.get("owned_by") == kind:
                return kind
        version = await self._client.get_or_empty(f"{self._root}/api/version")
        return "ollama" if "version" in version else "other"

    async def _find_controls(self) -> frozenset[Control]:
        if self._kind != "vllm":
            return frozenset()
        return wire.controls(await self._client.get_or_empty(f"{self._root}/openapi.json"))

    @property
    def _root(self) -> str:
        return self._client.url.removesuffix("/v1")

    async def _request(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        if self._form is None:
            # The first prompt finds, alone, the form that the server takes. The others wait for it. If it fails for
            # reasons of its own, the next one tries.
            async with self._finding_form:
                if self._form is None and self._lost is None:
                    return await self._find_form(prompt, sampling)
        if self._lost is not None or self._form is None:
            # A new error for each caller: one exception raised in many tasks would collect all their tracebacks.
            raise ServerError(str(self._lost)) from self._lost
        completion, count = await self._send(self._form, prompt, sampling)
        if count == len(prompt):
            return completion
        if self._form == "ids":
            raise self._client.error(_miscount(count, len(prompt)))
        # As text, a single prompt may be tokenized differently. That is this prompt's failure, not the server's.
        return Completion(
            "", 0, "error", f"as text this prompt is {count} tokens to the server, not {len(prompt)}"
        )

    async def _find_form(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """Complete the first prompt, and keep the form for which the server counts the right number of tokens."""
        # Ids before text, which may be tokenized differently on the way back. Ollama's raw API takes only text.
        form: _Form = "ids" if self._kind != "ollama" else "text"
        try:
            completion, count = await self._send(form, prompt, sampling)
        except RefusedError as error:
            # The ids may not be the reason. If they are not, the text is refused as well, and that error is raised.
            if form == "text" or not self._can_decode():
                raise
            _log.info("%s takes no token ids (%s); sending text", self._client.url, error)
            form = "text"
            completion, count = await self._send(form, prompt, sampling)
        # Exactly one token too many, and our own prompt begins with BOS: the server added its own.
        if form == "text" and count == len(prompt) + 1 and prompt[0] == self._bos_id:
            form = "text after BOS"
            completion, count = await self._send(form, prompt, sampling)
        if count != len(prompt):
            raise self._client.error(_miscount(count, len(prompt)))
        # Only now: a form that raised above is not kept.
        self._form = form
        return completion

    async def _send(self, form: _Form, prompt: Sequence[int], sampling: Sampling) -> tuple[Completion, int]:
        """The completion, and how many prompt tokens the server counted."""
        sent: list[int] | str = list(prompt)
        if form != "ids":
            sent = self._text(prompt if form == "text" else prompt[1:])
        stops = self._stops(sampling)
        if self._kind == "ollama":
            body = wire.raw_body(self._served_name, self._info.context_length, sent, sampling, stops)
            path, needs = f"{self._root}/api/generate", "response"
        else:
            body = wire.body(self._kind, self._served_name, sent, sampling, stops)
            path, needs = "completions", "choices"
        answer = await self._client.request("POST", path, body, needs=needs, seed=sampling.seed)
        read = wire.read_raw if needs == "response" else wire.read
        try:
            reply = read(answer, len(prompt), sampling.max_tokens)
        except wire.BadReplyError as error:
            raise RequestError(str(error)) from None
        except wire.BadServerError as error:
            if self._form is not None:  # it has answered well before
                raise RequestError(f"the server {error}") from None
            advice = "set `server.url` to the /v1 of a completion server"
            raise self._client.error(f"{error}; {advice}") from None
        return wire.completion(reply, sampling), reply.counted

    def _stops(self, sampling: Sampling) -> list[str]:
        """Stop strings: with the texts of the stop ids, for a server that does not know `stop_token_ids`."""
        stops = list(sampling.stop)
        if self._kind not in {"vllm", "sglang"} and self._can_decode():
            stops += [text for i in sampling.stop_ids if (text := self._text([i])) and text not in stops]
        return stops

    def _can_decode(self) -> bool:
        return self._decode is not None or self._files is not None

    def _text(self, ids: Sequence[int]) -> str:
        if self._decode is None:
            if self._files is None:
                raise self._client.error(
                    "takes text only; name the model whose tokenizer can write the ids as text"
                )
            self._decode, bos_id = _tokenizer(self._files, self._recipe)
            self._bos_id = bos_id if self._bos_id is None else self._bos_id
        return self._decode(ids)


def _miscount(counted: int, sent: int) -> str:
    counts = f"counts {counted} prompt tokens, but {sent} were sent"
    if counted > sent:
        return (
            f"{counts}: it puts a chat template or a second BOS around the prompt; use a server whose "
            "/v1/completions is raw and takes token ids, such as `magpie serve`"
        )
    return (
        f"{counts}: it cuts the prompt or has another tokenizer; serve exactly the model that the recipe names, with a "
        "context as long as the recipe's"
    )


def _tokenizer(files: ModelFiles, model: Model) -> tuple[Decode, int | None]:
    from magpie.models.tokenizer import open_tokenizer

    # As the chat format was read: a class that does not fit its file would lose the prompt's spaces.
    tokenizer = open_tokenizer(files.path, files.name, trust_remote_code=model.trust_remote_code).tokenizer

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
