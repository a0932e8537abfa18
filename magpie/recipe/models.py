"""The section `models`: which models a run uses, and how each is run."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from magpie.recipe.base import Part, Revision, ShapesNoRows, Text

EngineKind = str
"""The name of an engine, or `auto`. Which engines there are is checked when the recipe is planned."""


class Server(Part):
    """The HTTP server that the engine `server` sends its requests to."""

    url: str
    """The server's address, ending in /v1, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """The name under which the server has the model. null is the model's own; `model` beside it names the tokenizer."""
    api_key_env: str = "MAGPIE_API_KEY"
    """The environment variable that holds the API key. The key itself is never written in a recipe."""
    concurrency: int = Field(default=64, ge=1)
    """The most requests in flight at once."""
    timeout: float = Field(default=600.0, gt=0)
    """How long to wait for one answer, in seconds."""
    retries: int = Field(default=5, ge=0)
    """How many times a failed request is sent again."""
    backoff: float = Field(default=0.5, ge=0)
    """The wait before the first retry, in seconds. It doubles with each further retry."""
    patience: float = Field(default=120.0, ge=0)
    """How long a server may be busy (429, 502, 503) without one answer, in seconds, before the build stops."""

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, url: str) -> str:
        # Never shown: it may hold a password.
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("is no address; write it as http://127.0.0.1:8000/v1") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "holds a user name or a password, which would stand in the run's recipe; take them out, and put the "
                "key into the environment variable that `api_key_env` names"
            )
        if parts.query or parts.fragment:
            raise ValueError(
                "goes on after its path, with ? or #; end it in /v1, and put a key into the environment variable that "
                "`api_key_env` names"
            )
        if not parts.hostname or port == 0:
            raise ValueError("is no address; write it as http://127.0.0.1:8000/v1")
        return url


class Script(Part):
    """How the engine `scripted` behaves. It runs no model: it makes up texts from the seed, for tests and dry runs."""

    min_tokens: int = Field(default=8, ge=1)
    """The shortest text, in tokens."""
    max_tokens: int = Field(default=64, ge=1)
    """The longest text, in tokens."""
    tokens_per_second: float = Field(default=0.0, ge=0)
    """The speed of each completion. 0 is as fast as possible."""
    slots: int = Field(default=256, ge=1)
    """How many completions are worked on at once."""
    failure_rate: float = Field(default=0.0, ge=0, le=1)
    """The share of completions that end in an error."""
    cut_rate: float = Field(default=0.0, ge=0, le=1)
    """The share of completions that are cut off by length."""
    repeat_rate: float = Field(default=0.05, ge=0, le=1)
    """The share of instructions that repeat an earlier text."""


class Model(Part):
    """One model, and how it is run."""

    model: str
    """A hub id, a folder, or a model that comes with magpie.

    `demo` and `demo-embedder` are small real models. `demo-reward`, whose rewards mean nothing, and `demo-guard`, which
    looks for keywords, only stand in for real ones.
    """
    revision: Revision | None = None
    """The branch, tag or commit on the hub. null is the default branch."""
    engine: Text | None = None
    """The engine that runs the model. null takes the engine of the recipe."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """The number type of the weights. `auto` leaves the choice to the engine."""
    context_length: int = Field(default=4096, ge=64)
    """The most tokens of prompt and completion together."""
    tensor_parallel: Annotated[int, ShapesNoRows()] = Field(default=1, ge=1)
    """How many GPUs the model is split over."""
    slots: Annotated[int | None, ShapesNoRows()] = Field(default=None, ge=1)
    """How many completions are worked on at once.

    null is worked out from the model and the GPU's memory, as `magpie plan` shows it; on a CPU it is 256.
    """
    batched_tokens: Annotated[int | None, ShapesNoRows()] = Field(default=None, ge=64)
    """The most tokens of one step of vLLM on a GPU, prompts included. null is worked out, as `slots` is."""
    graph_sizes: Annotated[tuple[int, ...] | None, ShapesNoRows()] = Field(default=None, min_length=1)
    """The batch sizes for which vLLM captures CUDA graphs. null is sizes up to `slots`."""
    row_tokens: Annotated[int | None, ShapesNoRows()] = Field(default=None, ge=16)
    """How many tokens a request holds at its end on average, from which `slots` are worked out.

    null is what the steps that use the model usually hold.
    """
    device: Annotated[Literal["auto", "cpu"], ShapesNoRows()] = "auto"
    """What the model runs on. `auto` is a GPU, unless the libraries are built for CPUs or the machine has none.

    On a Ray cluster, `auto` waits for a node with a GPU. `cpu` takes none, also where there is one.
    """
    gpu_memory: Annotated[float, ShapesNoRows()] = Field(default=0.9, gt=0, le=1)
    """The share of a GPU's memory that the engine may use."""
    separate_process: Annotated[bool | None, ShapesNoRows()] = None
    """Run vLLM in a process of its own. null does so on a GPU only."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""
    chat_template: str | None = None
    """The chat template: a file of `templates/chat`, a path, or a name, if the tokenizer has several templates.

    null is the tokenizer's own template.
    """
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables for the chat template, such as {enable_thinking: false}."""
    thinking: Literal["off", "keep", "strip"] = "strip"
    """For models that reason before they answer.

    `strip` keeps the reasoning in a column of its own, `keep` also puts it into the messages, and `off` makes the chat
    template tell the model not to reason.
    """
    server: Annotated[Server | None, ShapesNoRows(but="model")] = None
    """Settings of the engine `server`."""
    script: Script = Script()
    """Settings of the engine `scripted`."""

    @property
    def as_loaded(self) -> Model:
        """The model without the settings that only change prompts. Roles for which this is equal share one engine."""
        return self.model_copy(
            update={"chat_template": None, "chat_template_kwargs": {}, "thinking": "strip"}
        )
