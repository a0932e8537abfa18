"""Every verb on runs that this user may not read, in a process without root's rights: `python no_rights.py FOLDER`.

FOLDER holds a run "whole", and copies of it under the names of what may not be read in them. What each verb said is
printed as JSON.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import magpie.storage.reading
from magpie import api
from magpie.build import build
from magpie.errors import MagpieError
from magpie.recipe import Filter
from magpie.recipe.loading import parse_recipe
from magpie.recipe.reading import read_yaml
from magpie.runs.run import Run
from magpie.terminal import new_console

NOBODY = 65534


def said(work: Callable[[], Any]) -> str:
    """The line of the error; nothing where it went well."""
    try:
        problems = work()
    except MagpieError as error:
        return str(error)
    return "\n".join(problems) if isinstance(problems, list) else ""


def verbs(run: Path, out: Path) -> dict[str, str]:
    """What each verb says of a run."""
    console = new_console(file=io.StringIO())
    recipe = parse_recipe(read_yaml(out.parent / "recipe.yaml"))
    rule = {"name": "keep", "rules": [{"name": "rule", "where": "index < 20"}]}
    works: dict[str, Callable[[], Any]] = {
        "status": lambda: api.status(run),
        "verify": lambda: api.verify(run),
        "show": lambda: api.show(run, rejected=True, console=console),
        "filter": lambda: api.filter(Run.open(run), Filter.model_validate(rule), out / "kept"),
        "export": lambda: api.export(run, "messages", out / "rows.jsonl", overwrite=True),
        "build": lambda: str(build(recipe, run)),
    }
    return {verb: said(work) for verb, work in works.items()}


def main(folder: Path) -> None:
    """Try all runs."""
    out = folder / "out"
    verbs(
        folder / "whole", out
    )  # loads all that is needed: afterwards Python's own files may be out of reach
    shutil.rmtree(out)
    magpie.storage.reading.WAITS = (0.0,)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    runs = [path for path in sorted(folder.iterdir()) if path.name not in {"whole", "out", "recipe.yaml"}]
    print(json.dumps({path.name: verbs(path, out) for path in runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
