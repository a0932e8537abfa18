"""The commands about a model: can it write instructions, and with which settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from magpie.cli.options import AsJson, EngineName, ModelName, engine_kind, numbers
from magpie.errors import RecipeError, StoppedError
from magpie.terminal import new_console, print_json


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Says of a sample that is stopped what is true of it: unlike a build, it keeps nothing."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise StoppedError(
            "stopped; what was sampled is not kept: run the same command again, with a smaller --n for less of it"
        ) from stop


def doctor(
    model: ModelName,
    n: Annotated[int, typer.Option(min=1, help="How many instructions to sample.")] = 64,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Only the format: needs just a tokenizer.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Try out what might help, n rows a change.")] = False,
    chat_template: Annotated[
        str | None, typer.Option(help="A template to use in place of the model's own.")
    ] = None,
    engine: EngineName = None,
    json_: AsJson = False,
) -> None:
    """Say whether a model can write instructions, and with which settings."""
    from magpie.doctor.doctor import doctor as examine
    from magpie.report.diagnosis import print_diagnosis
    from magpie.report.sample_progress import shown_progress

    if fix and no_sample:
        raise RecipeError("--fix samples the model and --no-sample does not; give one of them")
    with _nothing_kept(), shown_progress(new_console(stderr=True)) as on_progress:
        diagnosis = examine(
            model,
            n=0 if no_sample else n,
            fix=fix,
            chat_template=chat_template,
            engine=engine_kind(engine),
            on_progress=on_progress,
        )
    if json_:
        print_json(diagnosis.to_json())
    else:
        print_diagnosis(diagnosis, new_console())


def tune(
    model: ModelName,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe to take all but the generator and its mix from.")
    ] = None,
    n: Annotated[int, typer.Option(min=2, help="How many instructions to sample for each setting.")] = 128,
    temperatures: Annotated[str, typer.Option(help="Temperatures to try, with commas.")] = "0.8,1.0,1.2",
    top_ps: Annotated[
        str | None, typer.Option(help="Values of top_p to try, with commas; 1,0.95 on a GPU, else 1.")
    ] = None,
    engine: EngineName = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the samples.")] = None,
    json_: AsJson = False,
) -> None:
    """Try temperatures and top_p, and print the mix of the best."""
    from magpie.doctor.tune import tune as try_settings
    from magpie.report.sample_progress import shown_progress
    from magpie.report.tuning import print_tuning

    with _nothing_kept(), shown_progress(new_console(stderr=True)) as on_progress:
        tuning = try_settings(
            model,
            recipe=recipe,
            n=n,
            temperatures=numbers("--temperatures", temperatures),
            top_ps=None if top_ps is None else numbers("--top-ps", top_ps),
            engine=engine_kind(engine),
            seed=seed,
            on_progress=on_progress,
        )
    if json_:
        print_json(tuning.to_json())
    else:
        print_tuning(tuning, new_console())
