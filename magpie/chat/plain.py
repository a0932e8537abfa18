"""Plain-text prompts for base models, which have no chat format."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from magpie import models
from magpie.chat.template import ChatTokenizer
from magpie.chat.tokenizer import ModelTokenizer
from magpie.models import ModelFiles
from magpie.recipe import Model


@dataclass(frozen=True, slots=True)
class PlainText:
    """How a base model reads a text. `begin` are the ids that its tokenizer puts before every text."""

    begin: tuple[int, ...]
    tokenizer: ChatTokenizer = field(compare=False, repr=False)

    @classmethod
    def from_model(cls, model: str | Model, files: ModelFiles | None = None) -> PlainText:
        """The plain-text format of a model, given as a recipe's model or its name. Only the tokenizer is fetched.

        A chat template is neither needed nor used. Raises ModelError when the model is not there.
        """
        model = Model(model=model) if isinstance(model, str) else model
        folder = (files or models.resolve(model, weights=False)).path
        own = ModelTokenizer(folder, name=model.model, trust_remote_code=model.trust_remote_code)
        # As in training: some tokenizers have a BOS token and do not put it before texts.
        begin = (own.bos_id,) if own.bos_id is not None and own.begins_with_bos else ()
        return cls(begin, own)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends a text."""
        end = self.tokenizer.eos_id
        return () if end is None else (end,)

    def without_end(self, text: str) -> str:
        """The text without the token that ends it, where a server left it there; else as it is."""
        ends = tuple(text for text, at in self.tokenizer.special_tokens.items() if at in self.stop_ids)
        rest = text
        while ends and (bare := rest.rstrip()).endswith(ends):
            rest = next(bare.removesuffix(end) for end in ends if bare.endswith(end))
        return rest

    def ids(self, text: str) -> list[int]:
        """Token ids of the text."""
        return [*self.begin, *self.tokenizer.encode(text)]

    def identity(self) -> str:
        """A digest of everything that shapes prompts, for fingerprints."""
        content = [self.ids("What is this?\n\n<answer>\n"), self.stop_ids]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
