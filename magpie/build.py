"""Build a recipe into a run folder, from nothing or from wherever an earlier build stopped."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from magpie.errors import RecipeChangedError, RunError, StorageError
from magpie.execution.local import LocalBuild
from magpie.execution.progress import Log, Progress
from magpie.execution.signals import Stoppable
from magpie.figures.summary import write_report
from magpie.plan.fingerprints import Identity, adopt_commits, check_system_prompts, identify, pin_commits
from magpie.plan.planning import make_plan
from magpie.recipe import EngineKind, Recipe
from magpie.recipe.loading import load_recipe
from magpie.runs.dataset import write_dataset
from magpie.runs.reuse import take_over
from magpie.runs.run import Run, recipe_text
from magpie.runs.shards import FORMAT, run_lock, storage_errors, sweep, write_durably

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_DIFFERENCES = 12
_MAY_CHANGE = {"slots", "gpu_memory", "tensor_parallel", "separate_process", "server"}
"""Settings of a model that say where and how fast it runs, not what it writes."""


def build(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    rows: int | None = None,
    seed: int | None = None,
    engine: EngineKind | None = None,
    overrides: dict[str, Any] | None = None,
    stop_after: str | None = None,
    reuse: str | Path | None = None,
    console: Console | None = None,
) -> Run:
    """Build a recipe (a Recipe, a file, or a shipped recipe's name) into folder `out`, by default runs/NAME.

    Run it again to go on where it stopped: whole shards are kept, damaged ones made again. `stop_after` names the last
    step to run. `reuse` is the folder of another run, from which steps are taken over up to the first that differs.
    Raises RecipeError and ChatFormatError before any model is loaded, RecipeChangedError when the folder holds another
    recipe's run, StoppedError on SIGINT and SIGTERM.
    """
    recipe = load_recipe(recipe, rows=rows, seed=seed, engine=engine, overrides=overrides)
    run = Run(out if out is not None else Path("runs") / recipe.name, make_plan(recipe))
    if stop_after is not None:
        run.step(stop_after)
    source = None if reuse is None else Run.open(reuse)
    _open_folder(run)
    with Stoppable() as stoppable, run_lock(run.folder):
        sweep(run.folder)
        recorded = _recipe_there(run) or (None if source is None else _recipe_there(source))
        run = Run(run.folder, make_plan(adopt_commits(recipe, recorded)))
        _refuse_another_recipe(run)
        log = Log(run.log_path)
        steps = [(planned.name, planned.generates) for planned in run.plan.steps]
        with Progress(steps, recipe.rows, log=log, console=console) as progress:
            progress.doing("reading models and templates")
            run = Run(run.folder, make_plan(pin_commits(run.recipe, run.plan)))
            identity = identify(run.plan)
            check_system_prompts(run.plan, identity)
            _refuse_other_makers(run, identity)
            _write_down(run, identity)
            if source is not None:
                taken = take_over(run, source, _made_of(run, identity))
                if taken:
                    progress.note(f"taken over from {source.folder}: {', '.join(taken)}")
            _warn(run, progress)
            _build(run, identity, progress, stop_after, stoppable)
    return run


def _build(
    run: Run, identity: Identity, progress: Progress, stop_after: str | None, stoppable: Stoppable
) -> None:
    began = time.monotonic()
    local = LocalBuild(run, identity, progress)
    progress.log.write("started", recipe=run.recipe.name, rows=run.recipe.rows, shards=run.plan.shards)
    try:
        stoppable.run(local.build(stop_after=stop_after))
        if stop_after is None:
            progress.doing("writing the dataset")
            kept = write_dataset(run, local.lineage)
            write_report(run)
            progress.log.write("finished", kept=kept, seconds=round(time.monotonic() - began, 1))
            progress.doing(f"{kept:,} of {run.recipe.rows:,} rows kept in {run.dataset_folder}")
            if kept == 0:
                progress.note(f"not one row is left; see why with: magpie show {run.folder} --rejected")
        else:
            progress.doing(f"stopped after {stop_after}, as asked")
    except BaseException as error:
        progress.log.write("ended early", why=f"{type(error).__name__}: {error}")
        raise


def _open_folder(run: Run) -> None:
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder with --out")
    if folder.is_dir() and not run.recipe_path.exists():
        strangers = [path.name for path in folder.iterdir() if path.name not in {"run.lock", "log.jsonl"}]
        strangers = [name for name in strangers if not name.endswith(".tmp")]
        if strangers:
            raise RunError(f"{folder} holds other things ({strangers[0]}); choose an empty folder with --out")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _refuse_another_recipe(run: Run) -> None:
    """Refuse when the folder has rows of another recipe.

    Before the first shard any recipe will do, so that a mistyped model can be put right. A recipe that cannot be read
    is passed over here: what the fingerprints are made of is compared as well.
    """
    there = _recipe_there(run)
    if there is not None and run.has_shards:
        differences = _differences(_that_shapes_rows(there), _that_shapes_rows(_dumped(run.recipe)))
        if differences:
            raise RecipeChangedError(
                f"{run.folder} holds the run of another recipe: {_listed(differences)}; "
                "build into another folder with --out, or put the settings back"
            )


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return dict(yaml.safe_load(recipe_text(recipe)))


def _recipe_there(run: Run) -> dict[str, Any] | None:
    try:
        there = yaml.safe_load(run.recipe_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return there if isinstance(there, dict) and isinstance(there.get("models"), dict) else None


def _that_shapes_rows(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without what may change from one build of a run to the next."""
    shaping = _without(recipe, {"description"})
    shaping["models"] = {role: _without(model, _MAY_CHANGE) for role, model in recipe["models"].items()}
    for section, names in (("embed", {"batch_size"}), ("filter", {"name", "description"})):
        if isinstance(recipe.get(section), dict):
            shaping[section] = _without(recipe[section], names)
    return shaping


def _without(section: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in names}


def _made_of(run: Run, identity: Identity) -> dict[str, Any]:
    """All that decides what the run's shards hold, as JSON gives it back."""
    steps = {str(item["step"]): item for item in identity.ingredients}
    shape = {"format": FORMAT, "rows": run.recipe.rows, "shard_rows": run.recipe.shard_rows}
    return dict(json.loads(json.dumps({"run": shape, **steps})))


def _refuse_other_makers(run: Run, identity: Identity) -> None:
    """Refuse when a model, a template, a step or the shape of the run has changed since the first shard."""
    try:
        there = json.loads(run.fingerprints_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return  # every shard carries its own fingerprint
    if isinstance(there, dict) and run.has_shards:
        differences = _differences(there, _made_of(run, identity))
        if differences:
            raise RecipeChangedError(
                f"{run.folder} was made by other models, templates or code: {_listed(differences)}; "
                "build into another folder with --out, or put them back"
            )


def _write_down(run: Run, identity: Identity) -> None:
    """Keep the recipe and what the fingerprints are made of, once nothing speaks against them."""
    for path, text in (
        (run.recipe_path, recipe_text(run.recipe)),
        (run.fingerprints_path, json.dumps(_made_of(run, identity), indent=1, sort_keys=True)),
    ):
        if not path.is_file() or path.read_bytes() != text.encode():
            write_durably(path, text.encode())


def _differences(there: Any, here: Any, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in dict.fromkeys([*there, *here]):
            found += _differences(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
        return found
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        found = []
        for at, (one, other) in enumerate(zip(there, here, strict=True)):
            found += _differences(one, other, f"{path}.{at}")
        return found
    return [] if there == here else [f"`{path}` was {_short(there)}, now {_short(here)}"]


def _listed(differences: list[str]) -> str:
    more = len(differences) - _SHOWN_DIFFERENCES
    return ", ".join(differences[:_SHOWN_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _warn(run: Run, progress: Progress) -> None:
    for rule in run.plan.skipped_rules:
        progress.note(f"filter rule left out, the run has no such column: {rule}")
    try:
        free = shutil.disk_usage(run.folder).free
    except OSError as error:
        raise StorageError(f"cannot look at the disk of {run.folder}: {error}") from error
    if free < run.plan.disk_bytes:
        progress.note(
            f"the run may take {run.plan.disk_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "a full disk stops the build, it loses nothing"
        )
