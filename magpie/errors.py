"""Every error magpie raises on purpose.

    MagpieError
    ├── RecipeError            what a person wrote: a recipe, a filter, an option
    │   └── FilterError        a filter rule DuckDB cannot run, or that names an unknown column
    ├── ModelError             a model that is not there or cannot be loaded
    │   └── ChatFormatError    a chat template no sound format can be derived from
    ├── EngineError            an engine that died, or cannot do what is asked of it
    │   ├── EngineMemoryError  an engine for which a GPU's memory does not suffice
    │   └── ServerError        a server that refuses, times out or answers what it should not
    ├── HubError               the Hub refuses what is pushed, or cannot be reached
    └── RunError               a run folder
        ├── RecipeChangedError the folder holds the run of another recipe
        ├── ShortError         fewer rows are kept, of some kind or in all, than `until` asks for
        ├── DamagedShardError  a shard that is cut, flipped or not what it says it is
        ├── StorageError       a disk that is read-only or fails, or a bucket
        │   └── FullDiskError  a disk that is full
        ├── GateError          a gate of the recipe ended the build
        │   └── PausedError    it may go on when a person has looked
        └── StoppedError       a person or the system asked the build to stop

A message says what happened, then what to do next, on one line.
"""

from __future__ import annotations


class MagpieError(Exception):
    """The root: catch this to catch everything magpie raises on purpose."""


class RecipeError(MagpieError):
    """A recipe, a filter or an option is wrong. Raised before any model is loaded."""


class FilterError(RecipeError):
    """A filter rule is not valid SQL, or reads a column the run does not have."""


class ModelError(MagpieError):
    """A model cannot be found or loaded."""


class ChatFormatError(ModelError):
    """No chat format can be soundly derived from the tokenizer."""


class EngineError(MagpieError):
    """An engine died, or cannot do what the recipe asks."""


class EngineMemoryError(EngineError):
    """A GPU's memory does not suffice for the engine. `slots` are those that it was to have, None where not known."""

    def __init__(self, message: str, slots: int | None = None) -> None:
        super().__init__(message)
        self.slots = slots


class ServerError(EngineError):
    """A completion server refused, timed out, or answered something that is not a completion."""


class HubError(MagpieError):
    """The Hub refuses what is pushed to it, or cannot be reached."""


class RunError(MagpieError):
    """A run folder cannot be used."""


class RecipeChangedError(RunError):
    """The run folder was made by a different recipe, model revision or template."""


class ShortError(RunError):
    """The dataset is written, and has fewer rows than were asked for, in all or of some kind."""


class DamagedShardError(RunError):
    """A shard's bytes are not the bytes that were committed."""


class StorageError(RunError):
    """The disk is full, read-only or failing."""


class FullDiskError(StorageError):
    """There is no space left, or a quota is used up."""


class GateError(RunError):
    """What was made so far is not what the recipe's gate asks for; it is safe."""


class PausedError(GateError):
    """The same, and a person may let the build go on as it is."""


class StoppedError(RunError):
    """The build was asked to stop; what was committed is safe."""
