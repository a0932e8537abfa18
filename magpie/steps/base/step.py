"""What a step is: a description of one thing that is done to every row, and the work itself.

A `Step` is the description. It is made from a recipe, before anything is loaded. The plan, the dry run, status,
reports, resuming and fingerprints read from it all that they need to know about a step. `bind` returns the work: a
`RowWork` or a `GlobalWork`, built with the chat format, transcript or dataset that it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import pyarrow as pa

from magpie.errors import ChatFormatError
from magpie.neighbors.vectors import ProgressCallback
from magpie.sizing.roofline import Request
from magpie.steps.base.columns import REJECTED, token_column

if TYPE_CHECKING:
    from magpie.chat import ChatFormat, PlainText, Transcript
    from magpie.engines.base import Control
    from magpie.recipe import Model, NamedDataset, Recipe, Rule

E = TypeVar("E")

NOTE = b"magpie.note"
"""The key in the table's schema metadata under which a global step may put a note about its result, as JSON."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """The model that a step needs, and what for.

    `role` is its name under `models`. `purpose` is one of

    - "write" and "score": it writes completions or scores conversations, in an engine that the worker loads;
    - "embed": the step itself loads it;
    - "format": nothing is loaded, and only its chat format is read.

    `speech` is the form of its prompts: its chat format, finished conversations in its own template ("transcript"), or
    plain text. `controls` are the features of the engine that the step asks for, and
    `structured` says that its completions are held to a JSON schema.
    """

    role: str
    model: Model
    purpose: Literal["write", "score", "embed", "format"]
    speech: Literal["chat", "transcript", "plain"] | None = None
    controls: frozenset[Control] = frozenset()
    structured: bool = False

    @property
    def needs_engine(self) -> bool:
        """Whether an engine, or a scorer in the place of one, has to be loaded for the step."""
        return self.purpose in {"write", "score"}

    @property
    def loaded(self) -> Model | None:
        """The model as it is loaded: steps for which this is equal share one. None when only a format is read."""
        return None if self.purpose == "format" else self.model.as_loaded


@dataclass(frozen=True, slots=True)
class Label:
    """A column in which a judge gives each row one of `values`.

    `question` names what the judge was asked: two judges are compared on equal questions. `ordered` says that the
    values are a scale, from the least to the most. `votes` is the column with the answers of a judge that was asked
    several `times`. `asked` is a column that is null in rows about which the judge was not asked.
    """

    question: str
    column: str
    values: tuple[str, ...]
    ordered: bool
    votes: str | None
    times: int
    asked: str


@dataclass(frozen=True, slots=True)
class Instructions:
    """A dataset's instructions, in its order.

    `places` are NAME:N, where N counts rows from 1 (of JSON lines, the lines that are not empty); `ids` are the
    dataset's own, or else the places. `digest` is equal for equal ids and texts. `texts` are the first questions of
    the rows; `later_texts` are those of later turns, with their places, and a digest of their own where there are any.
    """

    name: str
    ids: tuple[str, ...]
    places: tuple[str, ...]
    texts: tuple[str, ...]
    digest: str
    later_places: tuple[str, ...] = ()
    later_texts: tuple[str, ...] = ()
    later_digest: str | None = None


class Tools(Protocol):
    """What a step may ask for when it is bound. Each answer is looked up once, however many steps ask for it."""

    def chat(self, model: Model) -> ChatFormat:
        """The model's chat format. Raises ChatFormatError."""

    def transcript(self, model: Model) -> Transcript:
        """How the model is shown finished conversations. Raises ChatFormatError."""

    def plain_text(self, model: Model) -> PlainText:
        """How the model, a base model, is given text. Raises ModelError."""

    def instructions(self, name: str | NamedDataset) -> Instructions:
        """The instructions of a run, a file or a hub dataset. Raises RecipeError."""


class RowWork(ABC, Generic[E]):
    """Adds columns to the rows of one shard.

    `run` is given `id`, `index` (int64, the row's position in the run), `rejected` and the columns that the step
    reads. It returns `id` and the columns that the step adds, for the same rows in the same order. Rows whose
    `rejected` is set are skipped: their new columns are null. `engine` is what the step's ModelUse asks for: an
    Engine, a Scorer, or None.
    """

    @abstractmethod
    async def run(self, rows: pa.Table, engine: E) -> pa.Table: ...


class PreparedWork(RowWork[E]):
    """Row work with something large to load: `prepare` is awaited before its phase, `close` after it."""

    # Loading in compiled code often holds the GIL. In the middle of a phase, an engine would get no requests then.

    @abstractmethod
    async def prepare(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...


class GlobalWork(ABC):
    """Adds columns that depend on every row of the run.

    `run_all` may call `on_progress` while it works; an error that this raises ends the work.
    """

    @abstractmethod
    def run_all(self, rows: pa.Table, on_progress: ProgressCallback) -> pa.Table: ...


class Step(ABC):
    """One thing done to every row. It adds columns and never removes a row.

    A column replaces an earlier one of the same name. `settings` is all that shapes the output besides the model;
    `version` is raised when the code changes what it makes of rows that it kept, for the same settings. It is not
    where the code learns to read an answer that it had rejected: the rows that stand are right, and stay.
    """

    version: ClassVar[int] = 1

    answers: ClassVar[bool] = False
    """Whether the step writes answers to instructions: the work that a pushed-down filter saves."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The step's name: in its folder, in the log, and before the reasons it gives."""

    @property
    def section(self) -> str:
        """The section of the recipe with its settings."""
        return self.name

    @property
    @abstractmethod
    def reads(self) -> Sequence[str]:
        """The columns it is given, besides `id`, `index` and `rejected`."""

    @property
    @abstractmethod
    def adds(self) -> pa.Schema:
        """The columns it adds; `rejected` among them where it may reject rows."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that shapes the output besides the model and what lies outside the recipe. Reads nothing from disk."""

    @property
    def rewrites(self) -> tuple[str, ...]:
        """Columns of earlier steps in which it puts something else: what a filter says of them waits for it."""
        return ()

    @property
    def uses(self) -> ModelUse | None:
        """The model it needs; None where it needs none."""
        return None

    @property
    def derives(self) -> pa.Schema:
        """Columns that stand in no shard: they follow from the settings and from columns that the step adds.

        They are in the dataset as well, unless they are made with `inner`.
        """
        return pa.schema([])

    def derive(self, rows: pa.Table) -> Mapping[str, Any]:
        """The columns of `derives`, as Arrow arrays, for rows with the columns of the dataset."""
        return {}

    @property
    def credited_as(self) -> str | None:
        """The dataset's column that names the model, such as "generator"; None where none does."""
        return None

    @property
    def bytes_per_row(self) -> int:
        """About how many bytes of a row it leaves on disk, zstd-compressed: an order of magnitude."""
        return 16

    @property
    def requests(self) -> tuple[Request, ...]:
        """What it asks its model for each row, with lengths as they usually are: for planning."""
        return ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """The columns that a judge decides; judges are compared on these."""
        return ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of the recipe's filter that it applies."""
        return ()

    @property
    def skipped_rules(self) -> tuple[str, ...]:
        """A text for each rule that is left out because the run lacks its columns."""
        return ()

    @property
    def missing_advice(self) -> Mapping[str, str]:
        """For a column that it reads, what to do when no step adds that."""
        return {}

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """The columns that `outcomes` reads; none where a row has no outcome but its reason."""
        return ()

    def outcomes(self, columns: Mapping[str, Any]) -> list[str]:
        """For each row a word or two that say what happened to it, to be counted.

        `columns` holds `outcome_columns`, as Arrow arrays.
        """
        raise LookupError(f"{self.name} has no outcomes")

    def warning(self, outcomes: Mapping[str, int]) -> str | None:
        """A line on outcomes that should worry somebody, with what to do; None where none does.

        `outcomes` counts the rows of a run by their outcome.
        """
        return None

    def problem(self, reason: str) -> str | None:
        """The word that `doctor` uses for the fault of a text that is rejected for `reason`; None where it has none.

        The words are "leaked", "empty", "looping", "cut" and "language".
        """
        return None

    @property
    def keeps_reasoning(self) -> bool:
        """Whether the dataset's messages are to hold what the model reasoned before its answers."""
        return False

    @property
    def answers_every_row(self) -> bool:
        """Whether rows that the filter is sure to drop are answered too."""
        return False

    def fingerprint(self, tools: Tools) -> dict[str, Any]:
        """The settings and all else that decides the output, such as the content of files. Called once a build."""
        return self.settings

    @property
    def rejects(self) -> bool:
        """Whether it may reject rows."""
        return REJECTED.name in self.adds.names

    @property
    def token_column(self) -> str | None:
        """The column that counts the tokens which a model wrote; None where no model writes."""
        return token_column(self.adds)


class RowStep(Step):
    """A step whose columns depend on the row alone, or on rows of its shard."""

    by_row: ClassVar[bool] = True
    """Whether they follow from the row alone: such rows are taken over from an earlier run one by one."""

    def makes_alike(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Whether some rows are the same with its settings `then` and `now`, as JSON: `as_now` says which."""
        return then == now

    def as_now(self, made: pa.Table) -> tuple[pa.Table, pa.BooleanArray]:
        """What it made with settings that it makes alike, with its columns of now; and for each row whether it is so.

        Asked only where the settings differ.
        """
        raise LookupError(f"{self.name} makes nothing alike with other settings")

    @abstractmethod
    def bind(self, tools: Tools) -> RowWork[Any]:
        """The work, with all that it needs besides an engine. Raises ModelError and RecipeError."""


class GlobalStep(Step):
    """A step whose columns depend on every row of the run: a barrier between phases."""

    @abstractmethod
    def bind(self, tools: Tools) -> GlobalWork:
        """The work, with all that it needs. Raises ModelError and RecipeError."""


class PlanSteps(Protocol):
    """An entry in the list of a method: how steps come into a plan.

    It gets the recipe and the columns of the steps before, and returns the steps that the recipe asks for: none if its
    section is off, one as a rule, or several, such as one for each judge. Raises RecipeError.
    """

    def __call__(self, recipe: Recipe, columns: pa.Schema, /) -> Sequence[RowStep | GlobalStep]: ...


def try_system_prompt(chat: ChatFormat, prompt: str | None, key: str) -> None:
    """Raise ChatFormatError, with the setting's `key`, if the chat format cannot hold a system prompt."""
    # Some templates refuse a system role, or some texts: the only way to know is to write it into a prompt.
    if prompt:
        try:
            chat.prompt([], system=prompt)
        except ChatFormatError as error:
            raise ChatFormatError(f"`{key}`: {error}") from error
