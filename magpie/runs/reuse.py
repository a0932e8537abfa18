"""A run that takes over from another all that it would make alike: every step before the first that differs.

So another threshold of near repeats costs neither the instructions nor their embeddings again. Shards are never
written to once they are there, and a file that two runs share is one file on disk.
"""

from __future__ import annotations

from magpie.errors import RunError
from magpie.runs.record import Ingredients, record_beside_reused, recorded_ingredients
from magpie.runs.run import Run, RunStep


def take_over(run: Run, source: Run, ingredients: Ingredients) -> dict[str, int]:
    """Put the shards of `source` that `run` would make alike into `run`; how many there are of each step.

    `ingredients` are those of `run`. Shards that `run` has already stay as they are. What is damaged, or was made from
    other shards, is found when the build looks at what it has, and made again. Raises RunError when no step is alike,
    StorageError.
    """
    steps, taken = alike(run, source, ingredients), dict[str, int]()
    record_beside_reused(run, ingredients)  # before any is here: a build may be killed among them
    for mine, theirs in steps:
        for shard in range(run.shards):
            if source.has_shard(theirs, shard) and not run.has_shard(mine, shard):
                run.storage.take_over(
                    source.storage, source.shard_name(theirs, shard), run.shard_name(mine, shard)
                )
                taken[mine.name] = taken.get(mine.name, 0) + 1
    return taken


def alike(run: Run, source: Run, ingredients: Ingredients) -> list[tuple[RunStep, RunStep]]:
    """The steps from the first on that both runs make alike, as each plans them. Raises RunError when none is."""
    if source.folder.resolve() == run.folder.resolve():
        raise RunError(f"{run.storage.location} cannot reuse itself; name another folder with --out")
    theirs = recorded_ingredients(source.storage)
    if theirs is None or not isinstance(theirs.get("run"), dict):
        raise RunError(f"{source.storage.location} does not say how it was made; leave out --reuse")
    if not run.recipe.steered_alike(source.recipe):
        raise RunError(
            f"{source.storage.location} steered later rows to fill cells (`steer.refills`), and this recipe does not; "
            f"build from its {source.storage.place('recipe.yaml')}, or leave out --reuse"
        )
    if not source.has_shards:
        raise RunError(
            f"{source.storage.location} has made nothing yet; build it first, or leave out --reuse"
        )
    # The name is part of every id, and the shape says which rows a shard holds.
    shape = {"name": run.recipe.name, **ingredients["run"]}
    their_shape = {"name": source.recipe.name, **theirs["run"]}
    if their_shape != shape:
        other = ", ".join(
            f"{key} {their_shape.get(key)}" for key in shape if their_shape.get(key) != shape[key]
        )
        raise RunError(
            f"{source.storage.location} has other rows ({other}); use the same, or leave out --reuse"
        )
    alike: list[tuple[RunStep, RunStep]] = []
    for mine, other_step in zip(run.steps, source.steps, strict=False):
        if mine.name != other_step.name or theirs.get(mine.name) != ingredients[mine.name]:
            break
        alike.append((mine, other_step))
    if not alike:
        raise RunError(
            f"{source.storage.location} makes even its instructions in another way, so there is nothing to reuse; "
            "leave out --reuse"
        )
    return alike
