"""How near a paraphrase of a question is to it, and how near other questions are: the bound of `decontaminate`.

    python -m benchmarks.paraphrases [--embedder NAME]

40 questions in the manner of evaluation sets, each with a paraphrase that shares few words with it and another question
on its subject, written for this project. A table of bounds: how many paraphrases are found, and how many of the others
are taken for one. The 13 words that are compared by default find none of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from magpie.engines.embedder import encode_all
from magpie.recipe import Model
from magpie.terminal import print_line

PAIRS = Path(__file__).with_suffix(".jsonl")
BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def pairs() -> list[dict[str, str]]:
    """The questions, with `paraphrase` and `sibling`."""
    return [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]


def distances(embedder: str = "demo-embedder") -> dict[str, Any]:
    """Squared distances, (40,): of each paraphrase to its question, and of each sibling to the nearest question."""
    held, model = pairs(), Model(model=embedder)
    vectors = {
        name: encode_all(model, [each[name] for each in held]).astype(np.float64)
        for name in ("question", "paraphrase", "sibling")
    }
    questions = vectors["question"]
    to_own = 2 - 2 * np.einsum("ij,ij->i", vectors["paraphrase"], questions)
    to_any = (2 - 2 * vectors["sibling"] @ questions.T).min(axis=1)
    return {"paraphrase": to_own, "sibling": to_any}


def shares(found: dict[str, Any], bound: float) -> dict[str, float]:
    """The share of each kind that is nearer than a bound."""
    return {name: float((values < bound).mean()) for name, values in found.items()}


def main() -> None:
    """Print the table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embedder", default="demo-embedder")
    embedder = parser.parse_args().embedder
    found = distances(embedder)
    table = {bound: shares(found, bound) for bound in BOUNDS}
    print_line("bound  paraphrases found  other questions taken for one")
    for bound, row in table.items():
        print_line(f"{bound:5.2f}  {row['paraphrase']:17.0%}  {row['sibling']:28.0%}")
    print_line(
        json.dumps({"benchmark": "paraphrases", "embedder": embedder, "pairs": len(pairs()), "bounds": table})
    )


if __name__ == "__main__":
    main()
