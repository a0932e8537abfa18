"""How texts read to a small model: what `magpie doctor` tells sense from noise by, measured on sets of known kind.

    python -m benchmarks.sense [--n 64] [--quick]

The sets: what SmolLM2-135M-Instruct writes behind its own pre-query template, and behind other families'; what it
writes behind no template at all, as a base model would; its own words shuffled; questions that people wrote; lines of
code, headings, and sentences of documents. A table of how many texts of each make sense, and what doctor says of a
model that writes such texts; a JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paraphrases import pairs
from magpie.doctor.judge_check import shuffle_words
from magpie.doctor.reference import Reference
from magpie.doctor.sampling import Sampler, sampling_recipe
from magpie.doctor.sense import READY, USABLE, makes_sense
from magpie.execution.signals import run_to_end
from magpie.neighbors.vectors import no_progress
from magpie.recipe import Draw, Instruct, Model
from magpie.terminal import print_line

ROOT = Path(__file__).parents[1]
TEMPLATES = ("llama3", "gemma3", "vicuna", "mistral-v3")
_INSTRUCT = Instruct(mix=(Draw(),), max_tokens=96)


async def _sampled(templates: Sequence[str | None], n: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    async with Sampler(no_progress) as sampler:
        for template in templates:
            model = Model(model="demo", context_length=2048, chat_template=template)
            written = await sampler.write(sampling_recipe("sense", model, _INSTRUCT), n)
            name = "its own template" if template is None else f"the template {template}"
            raw = written.rows["raw_instruction"].to_pylist()
            found[name] = [text for each in raw if each and (text := each.strip())]
    return found


def _as_a_base_model(n: int) -> list[str]:
    """What the model writes behind the token that separates documents: first lines of web text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from magpie.models import resolve

    folder = resolve(Model(model="demo")).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(42)
    start = torch.tensor([[tokenizer.convert_tokens_to_ids("<|endoftext|>")]] * n)
    with torch.inference_mode():
        # The separator is the padding too: unless it is said, it would be passed over.
        written = network.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            max_new_tokens=48,
            pad_token_id=0,
        )
    texts = tokenizer.batch_decode(written[:, 1:], skip_special_tokens=True)
    return [line for text in texts if (line := text.strip().partition("\n")[0])]


def still_sets(n: int) -> dict[str, list[str]]:
    """Texts of known kind for which no model is run."""
    code = [
        line.strip()
        for path in sorted((ROOT / "magpie").rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("    ") and len(line) > 30 and '"' not in line and "#" not in line
    ]
    headings = [
        line for path in sorted((ROOT / "docs").glob("*.md")) for line in path.read_text("utf-8").splitlines()
        if line.startswith("#")
    ]  # fmt: skip
    documents = [
        json.loads(line)["text"]
        for line in (ROOT / "recipes" / "long-documents.jsonl").read_text("utf-8").splitlines()
    ]
    sentences = [
        f"{part.strip()}." for text in documents for part in text.split(". ") if 40 < len(part) < 200
    ]
    draw = random.Random(42)
    return {
        "questions of people": [pair["question"] for pair in pairs()][:n],
        "lines of code": draw.sample(code, min(n, len(code))),
        "headings": draw.sample(headings, min(n, len(headings))),
        "sentences of documents": draw.sample(sentences, min(n, len(sentences))),
    }


def measured(reference: Reference, texts: Sequence[str]) -> dict[str, Any]:
    """The quartiles of both measures, and the share of texts that make sense."""
    reads = reference.read(texts)
    row: dict[str, Any] = {
        "texts": len(texts),
        "sense": float(np.mean([makes_sense(read) for read in reads])),
    }
    row["verdict"] = (
        "ready" if row["sense"] >= READY else "usable" if row["sense"] >= USABLE else "not usable"
    )
    for name in ("order", "speaker", "as_message"):
        row[name] = [
            round(float(x), 2) for x in np.percentile([getattr(read, name) for read in reads], [25, 50, 75])
        ]
    return row


def main() -> None:
    """Print the table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="only the sets for which no model is run")
    options = parser.parse_args()
    sets = still_sets(options.n)
    if not options.quick:
        sampled = run_to_end(_sampled((None, *TEMPLATES), options.n))
        own = sampled["its own template"]
        shuffled = [shuffle_words(text, at) for at, text in enumerate(own)]
        sets = {
            **sampled,
            "its own, words shuffled": shuffled,
            "no template": _as_a_base_model(options.n),
            **sets,
        }
    reference = Reference()
    table = {name: measured(reference, texts) for name, texts in sets.items() if texts}
    print_line(f"{'set':28} texts  make sense  {'verdict':10}  order (quartiles)   speaker (quartiles)")
    for name, row in table.items():
        print_line(
            f"{name:28} {row['texts']:5}  {row['sense']:10.0%}  {row['verdict']:10}  {row['order']!s:18}  "
            f"{row['speaker']!s}"
        )
    print_line(json.dumps({"benchmark": "sense", "sets": table}))


if __name__ == "__main__":
    main()
