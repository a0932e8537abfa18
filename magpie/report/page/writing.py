"""A report written: beside its rows, or where a person wants it, and its figures as files."""

from __future__ import annotations

from pathlib import Path

from magpie.drawing.files import FOLDER, can_draw, draw
from magpie.errors import RunError
from magpie.figures.report_figures import ReportFigures, report_figures
from magpie.report.page.page import charts, page
from magpie.runs.run import REPORT, Run
from magpie.storage import open_storage
from magpie.storage.writing import make_folders, refuse_another, replacing, storage_errors

MOST_ROWS = 200_000
"""Of a larger run the report is not written by itself: a build that is done should end."""

_HEAD = 8192  # bytes of a page that its head is in
_MARK = b'<meta name="made-from"'  # stands in every page that is made here


def write_report(figures: ReportFigures, out: Path | None = None, *, with_files: bool = True) -> Path:
    """Write the page, and `with_files` each figure as PNG and SVG in `figures/`; where the page is.

    Into the run or the folder of the dataset, or to `out`: a file that ends in .html, or a folder. Raises StorageError,
    and RunError where the rows are one file and `out` is not given, or where `out` is there and no report.
    """
    target = None if out is None else target_of(out)
    # The page comes last: it is there when all that belongs to it is.
    files = draw(charts(figures), ("png", "svg")) if with_files and can_draw() else {}
    text = page(figures).encode("utf-8", errors="replace")
    if target is None:
        run = figures.rows.run
        storage = open_storage(figures.rows.place) if run is None else run.storage
        if run is None and not _is_folder(figures.rows.place):
            raise RunError(
                f"{figures.rows.place} is a file; say where the report goes with --out, such as report.html"
            )
        for name, data in files.items():
            storage.replace(name, data)
        storage.replace(REPORT, text)
        return Path(storage.place(REPORT))
    make_folders(target.parent / FOLDER if files else target.parent)
    for name, data in {**files, target.name: text}.items():
        with replacing(target.parent / name) as temporary:
            _write(temporary, data)
    return target


def target_of(out: Path) -> Path:
    """The file that a person means: `out`, or report.html in it. Raises RunError where another's page is there."""
    target = out if out.suffix.lower() in {".html", ".htm"} else out / REPORT
    refuse_another(target, _MARK)
    return target


def write_at_end(run: Run) -> None:
    """Write the report of a run whose build has just ended: what takes little time, and no files of figures."""
    write_report(report_figures(run, quick=True), with_files=False)


def is_up_to_date(run: Run) -> bool:
    """Whether the run's report is there, and of the dataset that is there now."""
    manifest = run.dataset_files.manifest()
    try:
        head = run.storage.read(REPORT)[:_HEAD]
    except OSError:
        return False
    return manifest is not None and f'content="{manifest.made_from}"'.encode() in head


def _is_folder(place: str) -> bool:
    with storage_errors(Path(place)):
        return Path(place).is_dir()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
