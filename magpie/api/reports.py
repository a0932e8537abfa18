"""A run or a dataset to look at: the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from magpie.runs.run import Run

if TYPE_CHECKING:
    from magpie.neighbors.vectors import ProgressCallback


def report(
    source: Run | str | Path,
    out: str | Path | None = None,
    *,
    compare: str | Path | Sequence[str | Path] = (),
    embedder: str | None = None,
    tokenizer: str | None = None,
    price: float | None = None,
    figures: bool = True,
    quick: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """Write the report of a run or a dataset, one HTML file that needs no other; its place.

    It lies in the run, or in the folder of the dataset, unless `out` names a file that ends in .html, or a folder. With
    `figures`, each figure is also written as PNG and SVG to `figures/` beside it, where matplotlib is installed.
    `compare` names other runs, datasets or files, whose instructions are laid over the map; they are embedded by the
    run's embedder, or by `embedder`, which also makes the vectors of rows that have none stored. Tokens of whole
    conversations are counted by `tokenizer`, by default that of the generator. `price` is what an hour of a GPU costs
    in dollars, or of the machine where there is none. `quick` leaves out the languages of responses, the verbs, the
    tokens of conversations, and a map by words. `on_progress` is called with what is being done, the parts of work done
    and their number.

    Raises RunError where there are no rows, RecipeError for a dataset that cannot be read, ModelError, ChatFormatError,
    DamagedShardError and StorageError.
    """
    from magpie.figures.report_figures import report_figures
    from magpie.neighbors.vectors import no_progress
    from magpie.report.page.writing import target_of, write_report

    place = None if out is None else target_of(Path(out))  # a wrong place is refused before the work
    others = [compare] if isinstance(compare, str | Path) else compare
    found = report_figures(
        source,
        compare=[str(each) for each in others],
        embedder=embedder,
        tokenizer=tokenizer,
        price=price,
        quick=quick,
        on_progress=on_progress or no_progress,
    )
    return write_report(found, place, with_files=figures)
