"""The tokenizer of a recipe's model, with the chat template that its settings choose."""

from __future__ import annotations

from magpie import models, shipped
from magpie.chat.families import FamilyTokenizer, fitting, load_template
from magpie.chat.template import ChatTokenizer
from magpie.chat.tokenizer import ModelTokenizer
from magpie.errors import ChatFormatError
from magpie.models import ModelFiles
from magpie.recipe import Model

_MARKS = {"{bos}": "begin", "{eos}": "end"}


def load_tokenizer(model: Model, files: ModelFiles | None = None) -> tuple[ChatTokenizer, str, list[str]]:
    """A model's tokenizer with the chat template of its settings, the template's source, and notes on it.

    Raises ModelError when the model is not there, ChatFormatError when it has no such template.
    """
    # A file of templates/chat comes before a template of the same name in the tokenizer.
    name = model.chat_template
    is_file = name is not None and shipped.find("templates/chat", name) is not None
    family = load_template(name) if name is not None and is_file else None
    files = files or models.resolve(model, weights=False)
    own = ModelTokenizer(
        files.path,
        name=model.model,
        trust_remote_code=model.trust_remote_code,
        template_kwargs=model.chat_template_kwargs,
        template_name=None if family is not None else name,
        thinking=model.thinking != "off",
    )
    if family is not None:
        tokenizer = FamilyTokenizer(own, family)
        if tokenizer.missing:
            ends = " and ".join(_MARKS[mark] for mark in tokenizer.missing)
            raise ChatFormatError(
                f"the chat template {family.name!r} writes tokens that {ends} a text, and the tokenizer of "
                f"{model.model} names none; name it in its tokenizer_config.json (`bos_token`, `eos_token`), "
                "or use another template"
            )
        notes = [*own.reading_notes, *tokenizer.notes]
        if model.chat_template_kwargs:
            notes.append(f"`chat_template_kwargs` have no effect on the template {family.name!r}")
        return tokenizer, family.name, notes
    if own.template is None:
        raise own.without_template(fitting(own))
    return own, "tokenizer", list(own.notes)
