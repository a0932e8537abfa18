"""Everything a person writes to say what to build, validated.

A recipe is one YAML file, read by `loading.py`. Each step has a section named after it; a section set to null switches
its step off. A model is written once under `models` and named by its role; a role may point at another
(`judge: generator`), and then both are one loaded model. `filter` names a file of `filters/`, or holds the rules.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from magpie.recipe.base import Part, Share, Text
from magpie.recipe.scores import Guard, Prefer, Reward
from magpie.recipe.steer import Steer
from magpie.recipe.tag import Tag

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


class Draw(Part):
    """One way to sample, and its share of the rows. Shares need not add up to 1."""

    share: Share = 1.0
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)


class Instruct(Part):
    """The generator writes the user's message.

    `system_prompt` null keeps what the chat template does by itself (its default system prompt, where it has one).
    `stop_at_newline` ends an instruction at its first newline, as the published sets do.

    `hold_back` are openings that no instruction may begin with: the first token of each is not drawn there (for
    Llama 3.1 "#" and "**", which begin documents and not questions). `first_token_divisor` divides the logits of the
    first token: above 1, openings vary more (1.2 for Qwen2.5-Math in the code of arXiv 2406.08464).
    `stop_repetition` ends a text that repeats itself for good; null does so where the engine can.
    """

    model: str = "generator"
    mix: tuple[Draw, ...] = Field(default=(Draw(),), min_length=1)
    max_tokens: int = Field(default=2048, ge=1)
    stop_at_newline: bool = True
    system_prompt: str | None = None
    hold_back: tuple[str, ...] = ()
    first_token_divisor: float = Field(default=1.0, gt=0)
    stop_repetition: bool | None = None


class Clean(Part):
    """Strips what is not the message, and rejects what is not one. Lengths are characters.

    `prefixes` are texts that come off the beginning in upper or lower case, besides labels such as "Question:".
    From the first of `cut_at` on everything is cut away, such as "## Step 1" in the published multi-turn set of Llama
    3.1, which goes on to answer itself; what was wrong behind the cut is no reason to reject a row.
    """

    min_length: int = Field(default=8, ge=0)
    max_length: int = Field(default=8192, ge=1)
    prefixes: tuple[Text, ...] = ()
    cut_at: tuple[Text, ...] = ()


class Language(Part):
    """Names each instruction's language (ISO 639-1).

    `keep` rejects every language that is not in it; `keep: steered` rejects a row in any language but the one that
    `steer.variables.language` gave it.
    """

    keep: tuple[str, ...] | Literal["steered"] | None = None

    @field_validator("keep", mode="before")
    @classmethod
    def _is_a_list_or_steered(cls, keep: Any) -> Any:
        if keep in (None, "steered") or (
            isinstance(keep, list | tuple) and all(isinstance(one, str) for one in keep)
        ):
            return keep
        raise ValueError("must be a list of languages such as [en, de], or `steered`")


PiiKind = Literal["email", "phone", "secret"]


class Pii(Part):
    """Looks for what may belong to a person, in the instruction and in all that answers it, candidates for a pair too.

    `mark` says in the columns `pii` and `response_pii` what was found, `reject` puts such rows out, and `redact`
    replaces it by [EMAIL], [PHONE] or [SECRET] for every later step and the dataset. Secrets are keys, tokens and
    passwords in addresses. `phone_region` is where phone numbers without a country's code are from (an ISO 3166 code
    such as US); null finds those with a code only.
    """

    action: Literal["mark", "reject", "redact"] = "mark"
    kinds: tuple[PiiKind, ...] = Field(default=("email", "phone", "secret"), min_length=1)
    columns: tuple[Literal["instruction", "response"], ...] = Field(
        default=("instruction", "response"), min_length=1
    )
    phone_region: str | None = Field(default="US", pattern=r"^[A-Z]{2}$")


class Embed(Part):
    """Turns each instruction into a vector of length 1."""

    model: str = "embedder"
    batch_size: int = Field(default=128, ge=1)


class Dedup(Part):
    """Rejects repeats: rows within `threshold`, a squared L2 distance of unit vectors, of a kept row.

    0.05 is the published threshold (arXiv 2406.08464): a cosine similarity above 0.975.

    `keep` is the order in which rows are considered: as they come, longest instruction first, or best `input_quality`
    first. `method: exact` finds all near pairs, `approximate` nearly all of them sooner; `auto` is exact up to two
    million rows. `nearest` says the same of `min_neighbor_distance` where it is above the threshold; `auto` is exact up
    to 100,000 rows. What an approximate search misses is measured, shown and kept with the shards.

    Rows as near to an instruction of another dataset are rejected too: `against` lists runs, .parquet, .jsonl and .json
    files, and hub datasets (ORG/NAME or ORG/NAME:SPLIT). For adding to an earlier build, and for keeping a benchmark's
    questions out. A relative path is looked for in the working directory, then beside the recipe's own file.
    """

    threshold: float = Field(default=0.05, ge=0, le=4)
    keep: Literal["first", "longest", "best_quality"] = "first"
    method: Literal["auto", "exact", "approximate"] = "auto"
    nearest: Literal["auto", "exact", "approximate"] = "auto"
    against: tuple[Text, ...] = ()

    @field_validator("against", mode="before")
    @classmethod
    def _is_one_or_several(cls, against: Any) -> Any:
        return (against,) if isinstance(against, str) else against


class Decontaminate(Part):
    """Rejects rows that hold what evaluation sets ask.

    `files` are runs, .parquet, .jsonl and .json files, or hub datasets, as in `dedup.against`. A row is out when it
    shares `ngram` words in a row with one of their instructions (13 in the report on GPT-3, arXiv 2005.14165); where
    `distance` is given, also when it is nearer to one than that squared L2 distance of unit vectors.
    """

    files: tuple[Text, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=3)
    distance: float | None = Field(default=None, gt=0, le=4)

    @field_validator("files", mode="before")
    @classmethod
    def _is_one_or_several(cls, files: Any) -> Any:
        return (files,) if isinstance(files, str) else files


class Respond(Part):
    """The generator answers. `rows: all` answers rows that the filter will drop, for those who want the raw set.

    `stop_repetition` ends an answer that repeats itself for good; null does so where the engine can.
    """

    model: str = "generator"
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=4096, ge=1)
    system_prompt: str | None = None
    stop_repetition: bool | None = None
    rows: Literal["kept", "all"] = "kept"


class Extend(Part):
    """Further turns. `turns` counts all turns of the conversation, the first included.

    `system_prompt` is used only while the user's message is written. Null tells the model that it is in a conversation
    of many turns, where its family takes a system prompt; "" gives none.
    """

    model: str = "generator"
    turns: int = Field(default=2, ge=2)
    draw: Draw = Draw()
    instruct_max_tokens: int = Field(default=2048, ge=1)
    stop_at_newline: bool = True
    system_prompt: str | None = None
    respond_temperature: float = Field(default=0.0, ge=0)
    respond_max_tokens: int = Field(default=4096, ge=1)
    stop_repetition: bool | None = None


class Rule(Part):
    """A row is kept when `where`, a DuckDB predicate over the run's columns, is true. Null counts as false.

    A run without a column of `where` is an error; with `when_present`, the rule is left out of such a run, and the
    plan says so.
    """

    name: str
    where: str
    when_present: bool = False


class Top(Part):
    """Keep the `n` rows with the largest (`order: asc`, smallest) `by`, a column or expression."""

    by: str
    n: int = Field(ge=1)
    order: Literal["desc", "asc"] = "desc"


class Quotas(Part):
    """At most so many rows for each value of `by`: `each` for every value, or `counts` value by value.

    A value that is not in `counts` has the quota `each`, or none where `each` is not given; `each: 0` drops it.
    """

    by: str
    each: int | None = Field(default=None, ge=0)
    counts: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_how_many(self) -> Quotas:
        if self.each is None and not self.counts:
            raise ValueError("needs `each` or `counts`")
        return self


class Filter(Part):
    """What is kept of a run: rules in order, then quotas, then the top."""

    name: str = "filter"
    description: str = ""
    rules: tuple[Rule, ...] = ()
    quotas: Quotas | None = None
    top: Top | None = None


class Recipe(Part):
    """One dataset to build. `rows` counts instructions asked for; `shard_rows` is the unit of commit and of retry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    rows: int = Field(ge=1)
    seed: int = Field(default=42, ge=0)
    shard_rows: int = Field(default=1000, ge=1)
    engine: EngineKind = "auto"
    models: dict[str, Model]
    steer: Steer | None = None
    instruct: Instruct = Instruct()
    clean: Clean = Clean()
    pii: Pii | None = None
    language: Language | None = Language()
    embed: Embed | None = Embed()
    decontaminate: Decontaminate | None = None
    dedup: Dedup | None = Dedup()
    tag: Tag | None = Tag()
    respond: Respond | None = Respond()
    extend: Extend | None = None
    reward: Reward | None = None
    prefer: Prefer | None = None
    guard: Guard | None = None
    filter: Filter | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        for part in ("instruct", "embed", "tag", "respond", "extend", "reward", "prefer", "guard"):
            section = getattr(self, part)
            if section is not None and section.model not in self.models:
                roles = ", ".join(self.models) or "none"
                raise ValueError(
                    f"`{part}.model` is {section.model!r}, which is not under `models`; the roles there are: {roles}"
                )
        _check_second_judge(self)
        baseline = self.reward and self.reward.baseline
        if baseline and baseline.model not in self.models:
            raise ValueError(
                f"`reward.baseline.model` is {baseline.model!r}, which is not under `models`; "
                "name there the base model that the generator was aligned from"
            )
        if self.prefer is not None and self.prefer.reward not in self.models:
            raise ValueError(
                f"`prefer.reward` is {self.prefer.reward!r}, which is not under `models`; "
                "name there the reward model that chooses among the answers"
            )
        for needs, needed in (("dedup", "embed"), ("extend", "respond"), ("reward", "respond")):
            if getattr(self, needs) is not None and getattr(self, needed) is None:
                raise ValueError(
                    f"`{needs}` needs `{needed}`, which is switched off; switch off both or neither"
                )
        if self.decontaminate is not None and self.decontaminate.distance is not None and self.embed is None:
            raise ValueError(
                "`decontaminate.distance` needs `embed`, which is switched off; switch it on, or leave `distance` out"
            )
        if self.guard is not None and "response" in self.guard.of and self.respond is None:
            raise ValueError("`guard.of` names the response and `respond` is off; use `of: [instruction]`")
        if self.steer is not None and self.instruct.system_prompt is not None:
            raise ValueError(
                "`steer` and `instruct.system_prompt` both give the system prompt of the user's message; keep one"
            )
        return self

    def model(self, role: str) -> Model:
        """The model that plays `role`, with the recipe's engine filled in."""
        model = self.models[role]
        return model if model.engine is not None else model.model_copy(update={"engine": self.engine})


_NO_SECOND_OPINION = (
    "engine", "context_length", "tensor_parallel", "slots", "gpu_memory", "separate_process", "thinking",
)  # fmt: skip
"""What may differ between models that judge alike: where and how they run, and a reasoning that judges leave out."""


def _check_second_judge(recipe: Recipe) -> None:
    """A second judge is there, and is another than the first."""
    if recipe.tag is None or recipe.tag.second_judge is None:
        return
    first, second = recipe.tag.model, recipe.tag.second_judge
    if second not in recipe.models:
        raise ValueError(
            f"`tag.second_judge` is {second!r}, which is not under `models`; "
            f"the roles there are: {', '.join(recipe.models)}"
        )
    one, other = recipe.model(first), recipe.model(second)
    if one.model_copy(update={name: getattr(other, name) for name in _NO_SECOND_OPINION}) == other:
        raise ValueError(
            f"`tag.second_judge` is {second!r}, the same model as the first judge {first!r}: no second opinion; "
            "name another model, or ask the one several times with `tag.times`"
        )
