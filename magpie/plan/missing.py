"""What a recipe names and is not on this machine: looked for before a build, without loading anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from magpie import models, shipped
from magpie.engines import find_engine
from magpie.errors import MagpieError
from magpie.models import EMBEDDED, STAND_INS
from magpie.models.files import check_weights
from magpie.models.gguf import check_gguf, only_gguf
from magpie.models.hub import is_path
from magpie.models.trust import check_code
from magpie.plan.phases import Plan
from magpie.plan.tools import BuildTools
from magpie.recipe import Recipe
from magpie.steps.base import ModelUse


@dataclass(frozen=True, slots=True)
class Looked:
    """`missing` says of each thing that is not there, or cannot be used, what is wrong with it, in a line.

    `elsewhere` names the models and datasets of the hub: they are not looked up.
    """

    missing: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def look_for(plan: Plan, tools: BuildTools) -> Looked:
    """Look for the models, templates and datasets of a plan. Of a model only its folder and its tokenizer are read."""
    uses = {use.role: use for run_step in plan.steps if (use := run_step.step.uses) is not None}
    missing: list[str] = []
    elsewhere: list[str] = []
    said: set[str] = set()
    for use in uses.values():
        if not find_engine(use.model.engine).capabilities.loads_files:
            continue
        for problem in _problems(use, tools):
            if problem not in said:  # roles that share a model lack the same thing
                missing.append(f"`models.{use.role}`: {problem}")
                said.add(problem)
        if _is_on_hub(use.model.model):
            elsewhere.append(use.model.model)
    for setting, name in _datasets(plan.recipe):
        # A name may end in `:SPLIT`.
        if any(part and Path(part).expanduser().exists() for part in (name, name.rpartition(":")[0])):
            continue
        if _is_hub_dataset(name):
            elsewhere.append(name)
        else:
            missing.append(
                f"`{setting}`: there is no {name}; give a run, a file, or a hub dataset as ORG/NAME"
            )
    return Looked(tuple(missing), tuple(dict.fromkeys(elsewhere)))


def _problems(use: ModelUse, tools: BuildTools) -> Iterator[str]:
    model, path = use.model, Path(use.model.model).expanduser()
    template = model.chat_template
    if template is not None and _is_file_name(template) and shipped.find("templates/chat", template) is None:
        yield f"there is no chat template {template}; `magpie templates` lists those that ship"
        return
    if model.model in {*EMBEDDED, *STAND_INS} or _is_on_hub(model.model):
        return
    try:
        # A GGUF file is converted when it is first used, which a look must not wait for.
        gguf = (
            only_gguf(path) if path.is_dir() else path if path.suffix == ".gguf" and path.is_file() else None
        )
        if gguf is not None:
            check_gguf(gguf)
            return
        files = models.resolve(model, weights=False)
        if find_engine(model.engine).capabilities.loads_weights:
            check_weights(files)
            if not model.trust_remote_code:
                check_code(files)
        if use.speech == "chat":
            tools.chat(model)
    except MagpieError as error:
        yield str(error)


def _is_on_hub(name: str) -> bool:
    return name not in {*EMBEDDED, *STAND_INS} and not is_path(name) and not Path(name).exists()


def _is_file_name(name: str) -> bool:
    return is_path(name) or name.endswith((".yaml", ".jinja"))


def _datasets(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The datasets that the recipe compares with, each with the setting that names it."""
    if recipe.decontaminate is not None:
        yield from (("decontaminate.files", str(name)) for name in recipe.decontaminate.files)
    if recipe.dedup is not None:
        yield from (("dedup.against", str(name)) for name in recipe.dedup.against)


def _is_hub_dataset(name: str) -> bool:
    dataset = name.partition(":")[0]
    return not is_path(dataset) and dataset.count("/") == 1 and not Path(dataset).suffix
