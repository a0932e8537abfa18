"""Why a text that a model wrote is no use, in the words that rows carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magpie.engines.base import Completion, FinishReason

ENGINE_ERROR = "engine error"
CUT = "cut by length"
REPEATS = "repeats itself"
ROLE_HEADER = "role header inside"
NOT_JSON = "not the JSON asked for"

BROKEN_OFF: Mapping[FinishReason, str] = {"error": ENGINE_ERROR, "length": CUT, "repetition": REPEATS}
"""What a completion is called that the model did not end itself."""


def engine_error(completion: Completion) -> str:
    """What the engine says of a request that failed."""
    return completion.error or ENGINE_ERROR
