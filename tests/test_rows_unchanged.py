"""What the shipped recipes make on the scripted engine is what they made when these digests were taken.

A change of code that is to change no row leaves them alone. One that is meant to change rows raises the `version` of
its step, and brings new digests. They were taken on 2026-11-26 from commit 73c0694, before the package was rebuilt.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from magpie.build import build
from magpie.recipe.loading import load_recipe
from magpie.runs.run import Run

# Distances are of real embeddings, whose last bits are the machine's; what contaminates a row is named with its path.
# Later turns were not compared then.
LEFT_OUT = {"min_neighbor_distance", "min_similar_id", "contaminated_by", "contaminated_turn"}
IN_DATASET = ("id", "messages", "prompt", "chosen", "rejected")

DIGESTS = {
    "demo": (36, "58af5a765e3c67919de3b48d35dd97b5"),
    "demo-full": (0, "e533b3f0808fbf379c3230fc90dfd308"),  # a scripted guard finds nothing safe
    "demo-dpo": (60, "7e1d9ebf2a3b6c521d662096ace9e7e1"),
    "code": (40, "b55c3b2bd119436ada54fad06e70ddfe"),
}


def digest_of(run: Run) -> tuple[int, str]:
    """How many rows are kept, and a digest of every row of the run and of the conversations and pairs kept."""
    table = run.table()
    rows = table.select(sorted(set(table.column_names) - LEFT_OUT)).to_pylist()
    kept = [
        {name: row[name] for name in IN_DATASET if name in row}
        for path in sorted((run.folder / "dataset").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    text = json.dumps([rows, kept], sort_keys=True)
    return len(kept), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_a_shipped_recipe_makes_the_rows_it_made_before(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, rows=60, seed=7, engine="scripted")
    assert digest_of(build(recipe, tmp_path / "run")) == DIGESTS[name]
