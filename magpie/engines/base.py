"""What every engine is given and gives back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from magpie.errors import ModelError
from magpie.replies import valid_text

if TYPE_CHECKING:
    from magpie.models import ModelFiles
    from magpie.recipe import Model

FinishReason = Literal["stop", "length", "repetition", "error"]
Control = Literal["hold_back", "first_token_divisor", "stop_repetition"]
CONTROLS: frozenset[Control] = frozenset({"hold_back", "first_token_divisor", "stop_repetition"})

REPEATED_UNIT = (33, 64)
REPEATED_TIMES = 4
"""What `Sampling.stop_repetition` calls a repetition: 33 to 64 tokens, four times back to back.

A shorter unit counts too, since some multiple of it is as long: so it takes 132 tokens of one word, or 256 of a long
sentence. vLLM looks at every length in the range after every token, in the process that schedules: 32 lengths take it
about 10 microseconds (AMD EPYC, 2026-11-22), times the slots, which is why the range is no wider."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn.

    `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are off. `stop_ids` are token ids and `stop` are strings;
    generation ends before either and neither is part of the text. `schema` is a JSON schema, as JSON text, that the
    completion must satisfy; every string in it should have a `maxLength`, or the model may never close it.
    `presence_penalty` is taken from the logit of each token that the completion has already, as OpenAI's API does.

    `hold_back` are token ids that are not drawn as the first token, and `first_token_divisor` divides the logits of
    that token (a temperature of its own, on top). `stop_repetition` ends a completion that repeats itself for good:
    see REPEATED_UNIT. An engine that cannot do one of these raises EngineError when it is asked to.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    schema: str | None = None
    hold_back: tuple[int, ...] = ()
    first_token_divisor: float = 1.0
    stop_repetition: bool = False

    @property
    def controls(self) -> frozenset[Control]:
        """Those of the last three that are asked for."""
        neutral = {"hold_back": (), "first_token_divisor": 1.0, "stop_repetition": False}
        return frozenset(name for name in CONTROLS if getattr(self, name) != neutral[name])


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine wrote for one prompt.

    `token_count` counts every token generated, a stop token included. Special tokens that are not stops stay visible
    in `text`, so that a leaked role header can be seen. `finish_reason` is "repetition" where `stop_repetition` ended
    it. `error` says what went wrong when `finish_reason` is "error". `cached_tokens` are those of the prompt that the
    engine had in its prefix cache, None where it does not say; they depend on what was asked before, and so two
    completions that differ in nothing else are equal.

    Whatever an engine wrote, `text` is valid Unicode: what is no character is U+FFFD, `replaced` times.
    """

    text: str
    token_count: int
    finish_reason: FinishReason
    error: str | None = None
    cached_tokens: int | None = field(default=None, compare=False)
    replaced: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        text, replaced = valid_text(self.text)
        if replaced:
            object.__setattr__(self, "text", text)
            object.__setattr__(self, "replaced", replaced)


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward model gave one conversation: its raw logit, or null and what went wrong in `error`."""

    value: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model.

    `context_length` is in tokens, prompt and completion together. `slots` is how many completions the engine works on
    at once: keep more than that waiting and it never idles. `controls` are what it can do of `Sampling`'s
    `hold_back`, `first_token_divisor` and `stop_repetition`. `settings` are others that it was loaded with,
    for the log.
    """

    name: str
    revision: str
    engine: str
    context_length: int
    slots: int
    controls: frozenset[Control] = CONTROLS
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def stops_repetition(self, wish: bool | None) -> bool:
        """Whether to ask for `stop_repetition`: as the recipe says, or where it says nothing, if the engine can."""
        return "stop_repetition" in self.controls if wish is None else wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do on any machine. Planning asks these and no engine by its name.

    `writes` and `scores`: it opens models that write, and reward models. `controls`: those of `Sampling`'s controls
    that it can be asked for; a loaded engine may offer fewer (see `ModelInfo.controls`), or more where only the
    running engine can tell. `structured_outputs`: it can hold a completion to a JSON schema. `separate_process`: it
    can run in a process of its own. `chooses_device`: one build of it runs on GPUs and on CPUs. `loads_weights`: it
    loads a model's weights here. `loads_files`: it needs files of the model at all, a tokenizer at least.
    """

    writes: bool = True
    scores: bool = True
    controls: frozenset[Control] = CONTROLS
    structured_outputs: bool = True
    separate_process: bool = False
    chooses_device: bool = True
    loads_weights: bool = True
    loads_files: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that the rest of magpie knows of one engine. Each engine's module has one, named SPEC.

    `open` and `open_scorer` are given a recipe's model and its files, which are None where the engine loads none.
    `package` is the library it stands on, None where that always comes with magpie, and `install` says how to get it.
    `problem` says what is wrong with a model's settings, given those and their place in the recipe; None when nothing
    is. An engine that loads no files brings a `tokenizer` of its own, and says in `identity` what decides its texts.
    """

    name: str
    capabilities: Capabilities
    open: Callable[[Model, Any], Awaitable[Engine]]
    open_scorer: Callable[[Model, Any], Awaitable[Scorer]] | None = None
    package: str | None = None
    install: str = ""
    problem: Callable[[Model, str], str | None] = lambda model, place: None
    tokenizer: Callable[[], Any] | None = None
    identity: Callable[[Model], Mapping[str, Any]] | None = None
    credit: Callable[[Model], str] | None = None

    def credited(self, model: Model) -> str:
        """Who is named as the writer of what comes out; the model itself unless `credit` says otherwise."""
        return model.model if self.credit is None else self.credit(model)

    @property
    def is_installed(self) -> bool:
        """Whether the library that the engine stands on is there."""
        return self.package is None or find_spec(self.package) is not None


def misfit(length: int, context_length: int) -> str | None:
    """Why a prompt of `length` tokens cannot be completed, or None when it can."""
    if length == 0:
        return "the prompt is empty; give at least one token"
    if length < context_length:
        return None
    held = f"the prompt has {length} tokens and the context holds {context_length}"
    return f"{held}; raise context_length or shorten it"


class Engine(Protocol):
    """Turns token ids into text. Knows nothing of rows, recipes or files.

    `complete` never raises for one prompt's failure: it returns a Completion whose finish_reason is "error". It raises
    EngineError only when the engine as a whole is lost. All calls come from one asyncio event loop.
    """

    @property
    def model(self) -> ModelInfo: ...

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion: ...

    async def close(self) -> None: ...


def oversize(length: int, context_length: int) -> str | None:
    """Why a conversation of `length` tokens cannot be scored, or None when it can."""
    if length == 0:
        return "the conversation is empty; give at least one token"
    if length <= context_length:
        return None
    return (
        f"the conversation has {length} tokens and the context holds {context_length}; raise context_length"
    )


def reward_padding(files: ModelFiles, *, trust_remote_code: bool = False) -> int | None:
    """The padding token that a reward model's head looks past; None where it has none.

    Raises ModelError for a model that does not give one number: code of its own, where trusted, may give what it likes.
    """
    try:
        config = json.loads((files.path / "config.json").read_text(encoding="utf-8-sig"))
        made_for = ", ".join(config.get("architectures") or ["nothing in particular"])
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the config.json of {files.name} cannot be read; fetch the model again") from error
    if not trust_remote_code and not made_for.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{files.name} is no reward model (it was made for {made_for}); name a sequence-classification model"
        )
    if not trust_remote_code and labels != 1:
        raise ModelError(
            f"{files.name} tells {labels} classes apart and a reward model gives one number; name another model"
        )
    padding = config.get("pad_token_id")
    return padding if isinstance(padding, int) else None


def without_padding(conversation: Sequence[int], padding: int | None) -> list[int]:
    """The conversation without padding tokens at its end.

    transformers reads the reward at the last token that is no padding, and models are trained that way; vLLM reads it
    at the last token. They differ where a template ends in the token that the model's config calls padding.
    """
    end = len(conversation)
    while end and conversation[end - 1] == padding:
        end -= 1
    return list(conversation[:end])


@runtime_checkable
class Scorer(Protocol):
    """Gives a whole conversation, as token ids, one number: a reward model's raw logit, no sigmoid over it.

    `score` never raises for one conversation's failure: it returns a Score that holds an `error`. It raises
    EngineError only when the scorer as a whole is lost. All calls come from one asyncio event loop.
    """

    @property
    def model(self) -> ModelInfo: ...

    async def score(self, conversation: Sequence[int]) -> Score: ...

    async def close(self) -> None: ...
