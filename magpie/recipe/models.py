"""What a recipe says of a model: which one, and how it is run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from magpie.recipe.base import Part

EngineKind = Literal["auto", "vllm", "transformers", "server", "scripted"]


class Server(Part):
    """Where a `server` engine finds its completions, and how patient it is.

    `url` ends in /v1. The key is read from the environment variable named by `api_key_env`, never from the recipe.
    `concurrency` is requests in flight at once; `timeout` is seconds for one answer; `retries` are tries after the
    first, with exponential back-off from `backoff` seconds.
    """

    url: str
    api_key_env: str = "MAGPIE_API_KEY"
    concurrency: int = Field(default=64, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    retries: int = Field(default=5, ge=0)
    backoff: float = Field(default=0.5, ge=0)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"must start with http:// or https://, not {url!r}")
        return url


class Script(Part):
    """What a `scripted` engine writes: texts of our own making, drawn by seed, of set lengths, speeds and failures.

    Lengths are tokens. `tokens_per_second` is for each completion; 0 is as fast as possible. `failure_rate` is the
    share of completions that end in an error, `cut_rate` the share cut by length, `repeat_rate` the share of
    instructions that repeat an earlier text.
    """

    min_tokens: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    tokens_per_second: float = Field(default=0.0, ge=0)
    slots: int = Field(default=256, ge=1)
    failure_rate: float = Field(default=0.0, ge=0, le=1)
    cut_rate: float = Field(default=0.0, ge=0, le=1)
    repeat_rate: float = Field(default=0.05, ge=0, le=1)


class Model(Part):
    """One model and how it is run.

    `model` is a hub id, a folder, or the name of an embedded model (`demo`, `demo-embedder`) or of a stand-in that is
    made here (`demo-reward`, whose rewards mean nothing, and `demo-guard`, which goes by keywords). `context_length` is
    tokens, prompt and completion together. `slots` is how many completions are worked on at once; None takes the
    engine's default for the machine. `gpu_memory` is the share of a GPU's memory the engine may hold. `chat_template`
    names a file of templates/chat, or is a path to one, for a tokenizer without a template of its own; or it names one
    of the templates of a tokenizer that has several.

    `thinking` is for models that reason before they answer: `strip` keeps their reasoning in a column of its own,
    `keep` puts it into the messages as well, and `off` has the template tell the model not to reason.
    """

    model: str
    revision: str | None = None
    engine: EngineKind | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    context_length: int = Field(default=4096, ge=64)
    tensor_parallel: int = Field(default=1, ge=1)
    slots: int | None = Field(default=None, ge=1)
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    separate_process: bool | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    thinking: Literal["off", "keep", "strip"] = "strip"
    server: Server | None = None
    script: Script = Script()

    @property
    def as_loaded(self) -> Model:
        """The model without what shapes prompts alone: where this is equal, one loaded model plays both roles."""
        return self.model_copy(
            update={"chat_template": None, "chat_template_kwargs": {}, "thinking": "strip"}
        )
