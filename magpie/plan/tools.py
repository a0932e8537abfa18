"""What steps are bound with: chat formats, transcripts, plain text, and the instructions of other datasets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from magpie.chat import ChatFormat, PlainText, Transcript
from magpie.data.instructions import read_instructions
from magpie.engines import find_engine
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model, NamedDataset
from magpie.steps.base import Instructions, ModelUse

T = TypeVar("T")


class BuildTools:
    """The Tools of a build or of a sample: whatever is asked for is looked up once, and kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Any] = {}

    def chat(self, model: Model) -> ChatFormat:
        """The chat format that a model speaks. Raises ChatFormatError."""
        return self._once("chat", model, ChatFormat.derive, ChatFormat.from_model)

    def transcript(self, model: Model) -> Transcript:
        """How a model is shown finished conversations. Raises ChatFormatError."""
        return self._once("transcript", model, Transcript.derive, Transcript.from_model)

    def plain_text(self, model: Model) -> PlainText:
        """How a base model is given text. Raises ModelError."""
        return self._once("plain", model, lambda own: PlainText((), own), PlainText.from_model)

    def instructions(self, name: str | NamedDataset) -> Instructions:
        """The instructions of a run, a file or a hub dataset. Raises RecipeError."""
        key = ("instructions", name if isinstance(name, str) else name.model_dump_json())
        if key not in self._kept:
            self._kept[key] = read_instructions(name)
        instructions: Instructions = self._kept[key]
        return instructions

    def files(self, model: Model) -> ModelFiles:
        """A model's tokenizer, config and revision, without its weights. Raises ModelError."""
        key = ("files", f"{model.model}@{model.revision} {model.trust_remote_code}")
        if key not in self._kept:
            self._kept[key] = resolve(model, weights=False)
        files: ModelFiles = self._kept[key]
        return files

    def format_digest(self, use: ModelUse) -> str | None:
        """A digest of how the model is spoken to; None where it is not."""
        if use.speech is None:
            return None
        if use.speech == "chat":
            return self.chat(use.model).identity()
        if use.speech == "transcript":
            return self.transcript(use.model).identity()
        return self.plain_text(use.model).identity()

    def _once(
        self,
        kind: str,
        model: Model,
        derive: Callable[[Any], T],
        from_model: Callable[[Model, ModelFiles], T],
    ) -> T:
        key = (kind, model_key(model))
        if key not in self._kept:
            own = find_engine(model.engine).tokenizer
            # An engine that brings a tokenizer of its own speaks that, whatever the model is called.
            self._kept[key] = from_model(model, self.files(model)) if own is None else derive(own())
        found: T = self._kept[key]
        return found


def model_key(model: Model) -> str:
    """A key for a model and its settings: equal keys are one loaded model."""
    return model.model_dump_json()
