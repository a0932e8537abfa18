"""An engine that writes by rule, not by model: same prompt and seed, same text, whatever else is running.

It ships with the package so that a pipeline can be tried, timed and broken on purpose without a model. It shows
nothing about quality.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from magpie.engines.base import Capabilities, Completion, EngineSpec, ModelInfo, Sampling, Score, oversize
from magpie.engines.scripted.pages import page_after, until
from magpie.recipe import Model, Script

_SPECIAL = {"<|im_start|>": 256, "<|im_end|>": 257, "<|endoftext|>": 258}
_SPECIAL_TOKENS = re.compile(f"({'|'.join(map(re.escape, _SPECIAL))})")
_SYSTEM = "You are a scripted assistant."
_OPENINGS = (
    "How do I",
    "What is the best way to",
    "Can you explain how to",
    "Write a short guide on how to",
    "Why would I",
)
_VERBS = (
    "plan",
    "measure",
    "repair",
    "compare",
    "teach",
    "grow",
    "paint",
    "sort",
    "record",
    "translate",
    "build",
    "test",
)
_THINGS = (
    "a garden", "a budget", "a bicycle", "two contracts", "a class of ten", "tomatoes", "a wooden door",
    "a large table", "a podcast", "a poem", "a bird house", "a web page", "a family tree", "a fair game", "a map",
    "old photographs",
)  # fmt: skip
_DETAILS = (
    "slowly", "with friends", "in winter", "on a small income", "without tools", "by hand", "at school", "before noon",
    "for a beginner", "in one week", "near the sea", "with care", "from memory", "twice a year", "at night", "at home",
)  # fmt: skip


class ScriptedTokenizer:
    """Bytes as token ids, and ChatML's special tokens: a whole tokenizer with no files."""

    bos_id: int | None = None
    eos_id: int | None = _SPECIAL["<|im_end|>"]
    special_tokens: Mapping[str, int] = _SPECIAL

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """ChatML, with a default system prompt."""
        turns = list(messages)
        if not turns or turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": _SYSTEM})
        text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
        return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes; special tokens in the text become their ids."""
        # Every other piece is a special token.
        pieces = _SPECIAL_TOKENS.split(text)
        ids = list(pieces[0].encode())
        for token, after in zip(pieces[1::2], pieces[2::2], strict=True):
            ids.append(_SPECIAL[token])
            ids += after.encode()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens stay visible."""
        by_id = {number: token.encode() for token, number in _SPECIAL.items()}
        return b"".join(by_id.get(number) or bytes([number]) for number in ids).decode(errors="replace")


_TO_ANSWER = tuple(ScriptedTokenizer().encode("<|im_start|>assistant\n"))


class ScriptedEngine:
    """Writes instructions, answers and JSON by rule; lengths, speed and failures come from `Script`.

    What it writes depends on the prompt and the sampling alone, so it is batch-invariant: a build with it is identical
    to the byte, run after run. Of the controls, `hold_back` leaves out the openings whose first byte it names (JSON
    has one opening only, and keeps it), `first_token_divisor` makes it another text, and `stop_repetition` finds
    nothing to stop: no script repeats itself.
    """

    def __init__(
        self, script: Script | None = None, *, name: str = "scripted", context_length: int = 4096
    ) -> None:
        self._script = script or Script()
        self._slots = asyncio.Semaphore(self._script.slots)
        self._model = ModelInfo(
            name=name,
            revision="scripted",
            engine="scripted",
            context_length=context_length,
            slots=self._script.slots,
        )

    @property
    def model(self) -> ModelInfo:
        """What this engine says it is."""
        return self._model

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One text, decided by the prompt, the seed and the temperature."""
        completion = self._write(prompt, sampling)
        speed = self._script.tokens_per_second
        if speed:
            async with self._slots:
                await asyncio.sleep(completion.token_count / speed)
        return completion

    async def close(self) -> None:
        """Nothing is held."""

    def _write(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        script = self._script
        key = f"{sampling.seed}/{sampling.temperature}/{hash(tuple(prompt))}"
        if sampling.first_token_divisor != 1:
            key += f"/{sampling.first_token_divisor}"
        if sampling.presence_penalty:
            key += f"/presence {sampling.presence_penalty}"
        draw = random.Random(hashlib.blake2b(key.encode(), digest_size=8).digest())
        if draw.random() < script.failure_rate:
            return Completion("", 0, "error", "scripted failure")
        tokens = min(
            draw.randint(script.min_tokens, max(script.min_tokens, script.max_tokens)), sampling.max_tokens
        )
        cut = draw.random() < script.cut_rate
        if sampling.schema is not None:
            text = json.dumps(_fill(json.loads(sampling.schema), draw))
            return Completion(text[: len(text) // 2] if cut else text, tokens, "length" if cut else "stop")
        page = page_after(prompt, draw, lambda: _sentence(draw, draw.choice(_OPENINGS), 2))
        if page is not None:
            return _within(until(page, sampling.stop), sampling.max_tokens, cut=cut)
        answers = tuple(prompt[-len(_TO_ANSWER) :]) == _TO_ANSWER
        known = _VERBS if answers else _OPENINGS
        starts = [start for start in known if ord(start[0]) not in sampling.hold_back]
        if not starts:
            return Completion("", 0, "error", "the script has no opening left that is not held back")
        if answers:
            text = " ".join(
                f"{draw.choice(_VERBS if number else starts)} {draw.choice(_THINGS)} {draw.choice(_DETAILS)}."
                for number in range(tokens // 6 + 1)
            )
        else:
            if draw.random() < script.repeat_rate:
                draw, tokens = random.Random(draw.randrange(16)), script.min_tokens
            details = " ".join(draw.choice(_DETAILS) for _ in range(max(1, tokens // 4)))
            text = f"{draw.choice(starts)} {draw.choice(_VERBS)} {draw.choice(_THINGS)} {details}?"
        return Completion(text, tokens, "length" if cut else "stop")


class ScriptedScorer:
    """Scores by rule, from -20 to 20: the same conversation, the same reward. `failure_rate` is `Script`'s."""

    def __init__(
        self, script: Script | None = None, *, name: str = "scripted", context_length: int = 4096
    ) -> None:
        self._engine = ScriptedEngine(script, name=name, context_length=context_length)
        self._failure_rate = (script or Script()).failure_rate

    @property
    def model(self) -> ModelInfo:
        """What this scorer says it is."""
        return self._engine.model

    async def score(self, conversation: Sequence[int]) -> Score:
        """One number, decided by the conversation alone."""
        if trouble := oversize(len(conversation), self.model.context_length):
            return Score(None, trouble)
        spelled = ",".join(map(str, conversation)).encode()
        draw = random.Random(hashlib.blake2b(spelled, digest_size=8).digest())
        if draw.random() < self._failure_rate:
            return Score(None, "scripted failure")
        return Score(draw.uniform(-20, 20))

    async def close(self) -> None:
        """Nothing is held."""


def _sentence(draw: random.Random, opening: str, details: int) -> str:
    told = " ".join(draw.choice(_DETAILS) for _ in range(details))
    return f"{opening} {draw.choice(_VERBS)} {draw.choice(_THINGS)} {told}?"


def _within(text: str, max_tokens: int, *, cut: bool) -> Completion:
    """The text as a completion of four characters a token, cut where it is to be or gets too long."""
    most = min(4 * max_tokens, len(text) // 2 if cut else len(text))
    kept = text[:most]
    return Completion(kept, len(kept) // 4 + 1, "length" if len(kept) < len(text) else "stop")


def _fill(schema: dict[str, Any], draw: random.Random) -> Any:
    """A value that satisfies the JSON schema, for the kinds of schema a judge is given."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return {key: _fill(part, draw) for key, part in schema["properties"].items()}
    if kind == "integer":
        return draw.randint(schema["minimum"], schema["maximum"])
    if kind == "number":
        return round(draw.uniform(schema["minimum"], schema["maximum"]), 2)
    if kind == "array":
        return [
            _fill(schema["items"], draw)
            for _ in range(draw.randint(schema.get("minItems", 0), schema.get("maxItems", 2)))
        ]
    return f"to {draw.choice(_VERBS)} {draw.choice(_THINGS)}"[: schema.get("maxLength", 1000)]


async def _open(model: Model, _: object) -> ScriptedEngine:
    return ScriptedEngine(model.script, name=model.model, context_length=model.context_length)


async def _open_scorer(model: Model, _: object) -> ScriptedScorer:
    return ScriptedScorer(model.script, name=model.model, context_length=model.context_length)


def _identity(model: Model) -> dict[str, Any]:
    """What decides the texts: the script, and nothing of any machine."""
    return {"name": model.model, "revision": "scripted", "script": model.script.model_dump(mode="json")}


def _credit(model: Model) -> str:
    """That no model wrote it, and which one is stood in for."""
    # A name such as "scripted-reward" says it by itself.
    return model.model if model.model.startswith("scripted") else f"scripted ({model.model})"


SPEC = EngineSpec(
    name="scripted",
    capabilities=Capabilities(loads_weights=False, loads_files=False),
    open=_open,
    open_scorer=_open_scorer,
    tokenizer=ScriptedTokenizer,
    identity=_identity,
    credit=_credit,
)
