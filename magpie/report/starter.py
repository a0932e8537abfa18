"""The first recipe for a model: as short as a recipe can be, with what is published for models of its family."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from magpie.chat.families import for_model
from magpie.recipe.commented import inline

_ROWS = 1000


def starter(model: str, *, rows: int = _ROWS) -> str:
    """A recipe file for `model` as its generator, with comments that say what to change and where to read on."""
    lines = [
        "# See every setting, its default and its meaning: magpie recipe FILE. Then: magpie build FILE",
        f"name: {inline(name_for(model))}",
        f"rows: {rows}  # instructions to generate, before any is rejected",
        "",
        "models:",
        f"  generator: {inline(_generator(model))}",
        "  # judge: generator          # who tags the instructions; the generator itself unless another is named",
        "  # embedder: demo-embedder   # whose vectors tell repeats; the one that comes with magpie unless named",
        "",
        *_advice(model),
        *_newlines(model),
        "# filter: balanced  # which rows are kept; `magpie filters` lists those that ship. Without one, all are.",
    ]
    return "\n".join(lines) + "\n"


def name_for(model: str) -> str:
    """A recipe's name, made from the last part of a model's."""
    last = Path(model).name.lower().removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._") or "new"


def _generator(model: str) -> str | dict[str, Any]:
    """The model by its name alone, unless something is published for how it is loaded."""
    start = "models.generator."
    settings = {path: value for path, value in _published(model).items() if path.startswith(start)}
    if not settings:
        return model
    return {"model": model, **{path.removeprefix(start): value for path, value in settings.items()}}


def _published(model: str) -> dict[str, Any]:
    family = for_model(model)
    return {} if family is None or family.advice is None else family.advice.settings()


def _newlines(model: str) -> list[str]:
    """What a reader must know of `stop_at_newline`, where nothing is published on it."""
    if "instruct.stop_at_newline" in _published(model):
        return []
    return [
        "# An instruction ends at its first newline, as in the published datasets. For users who write several lines:",
        "# magpie build FILE --set instruct.stop_at_newline=false",
        "",
    ]


def _advice(model: str) -> list[str]:
    """What is published for models of the family, as YAML; nothing where the family is not known."""
    family = for_model(model)
    if family is None or family.advice is None or not _published(model):
        return []
    why = f"For {family.name} models: {' '.join(family.advice.why.split())}"
    lines = textwrap.wrap(why, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    sections: dict[str, dict[str, Any]] = {}
    for path, value in _published(model).items():
        section, _, setting = path.partition(".")
        sections.setdefault(section, {})[setting] = value
    for section, settings in sections.items():
        if section == "models":  # the generator's own, which stand above
            continue
        lines += [f"{section}:", *(f"  {name}: {inline(value)}" for name, value in settings.items())]
    return [*lines, ""]
