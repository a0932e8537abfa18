"""Whether what the filter keeps is better to train on: three sets of equal size from one build, one model each.

Or, with `--sets PLACE PLACE ...`, which of several datasets is: equally many rows of each, such as of both methods.

The embedded model writes and answers instructions (or `--run` names a finished run whose filter was off). Three sets
are taken from the rows that were answered: kept by the filter, rejected by it, and drawn at random from both. The same
model is fine-tuned on each with TRL, and the loss of response tokens, in nats a token, is measured on kept rows that
were put aside, and on tasks from outside. Each training has its own draw of rows and its own order, by its seed.
Figures are means over the seeds, with the standard deviation between them. Lower is better. The model is small and so
are the sets: this shows whether the way works and which way it points, and is no finding about other models.

Training is as published for Magpie-tuned models (learning rate 2e-5, cosine, 2 epochs), but for batches of 8, since
the sets are small, and conversations of 512 tokens at most (`--quick`: 256).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

import magpie
from magpie import shipped
from magpie.chat import ChatFormat
from magpie.data.rows import talks_of
from magpie.models import resolve
from magpie.recipe import Model
from magpie.runs.opened import open_dataset
from magpie.runs.run import is_run
from magpie.storage import open_storage
from magpie.terminal import new_console

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """An instruction and its answer."""

    instruction: str
    response: str


@dataclass(frozen=True, slots=True)
class Losses:
    """Nats for each token of the responses: of kept rows that were put aside, and of tasks from outside."""

    held_out: float
    outside: float


def main() -> None:
    """Measure, show, and end with one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="128 short rows, 2 seeds; not 2,000 and 5")
    parser.add_argument("--rows", type=int, help="rows to build")
    parser.add_argument("--seeds", type=int, help="trainings on each set")
    parser.add_argument("--filter", default="demo", help="the filter, by its name or its file")
    parser.add_argument("--run", type=Path, help="a finished run without a filter, in the place of a build")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build here, and leave the run")
    parser.add_argument(
        "--sets", nargs="+", metavar="PLACE", help="finished runs, or datasets in files, to train on"
    )
    parser.add_argument("--outside", type=Path, help="seed tasks (JSON lines); those of magpie if not given")
    options = parser.parse_args()
    rows = options.rows or (128 if options.quick else 2_000)
    seeds = options.seeds or (2 if options.quick else 5)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="magpie-sft-") as place:
        if options.sets:
            pools, held_out = _given(options.sets)
        else:
            run = options.run or _built(options.keep or Path(place) / "run", rows)
            pools, held_out = _split(run, options.filter, Path(place) / "kept")
        size = min(map(len, pools.values()))
        if size < _BATCH:
            counts = ", ".join(f"{name} {len(pool)}" for name, pool in pools.items())
            raise SystemExit(f"rows to train on: {counts}: too few; build more")
        size = min(size, rows) if options.sets else size
        outside = _tasks(options.outside)
        trainer = Training(Path(place), held_out, outside, length=256 if options.quick else 512)
        before = trainer.losses(trainer.model())
        found: dict[str, list[Losses]] = {name: [] for name in pools}
        for seed in range(seeds):
            for name, pool in pools.items():
                console.print(f"seed {seed}: training on {size} rows, {name}", highlight=False)
                found[name].append(trainer.trained(Random(seed).sample(pool, size), seed))
    figures = {
        "benchmark": "sft", "filter": None if options.sets else options.filter, "rows_each": size,
        "held_out_rows": len(held_out), "outside_rows": len(outside), "seeds": seeds, "before": asdict(before),
        **{name: _spread(losses) for name, losses in found.items()},
    }  # fmt: skip
    _show(figures, console)
    print(json.dumps(figures))


def _built(folder: Path, rows: int) -> Path:
    """A run of the demo's recipe, in one turn, in which the filter has dropped nothing."""
    changes = {"filter": None, "extend": None}
    return magpie.build("demo", folder, rows=rows, overrides=changes, console=new_console()).folder


Pools = dict[str, list[Answered]]


def _split(run: Path, filter_name: str, out: Path) -> tuple[Pools, list[Answered]]:
    """The answered rows that the filter keeps, those that it rejects and all of them, and rows that are put aside."""
    magpie.filter(run, filter_name, out)
    import pyarrow.parquet as pq

    kept = {name for path in sorted(out.rglob("*.parquet")) for name in pq.read_table(path)["id"].to_pylist()}
    table = magpie.Run.open(run).table(["instruction", "response"], rejected=False)
    rows = [row for row in table.to_pylist() if row["instruction"] and row["response"]]
    pairs = [(row["id"] in kept, Answered(row["instruction"], row["response"])) for row in rows]
    inside, aside = _parted([pair for is_kept, pair in pairs if is_kept])
    outside = [pair for is_kept, pair in pairs if not is_kept]
    return {"kept": inside, "rejected": outside, "random": [*inside, *outside]}, aside


def _given(places: Sequence[str]) -> tuple[Pools, list[Answered]]:
    """The rows of each set by its name, and as many of each that are put aside."""
    pools: Pools = {}
    left = []
    for place in places:
        dataset = open_dataset(magpie.Run.open(place) if is_run(open_storage(place)) else place)
        talks = [talk or [] for table in dataset.tables() for talk in talks_of(table).to_pylist()]
        rows = [Answered(talk[0]["content"], talk[1]["content"]) for talk in talks if len(talk) > 1]
        name = dataset.name if dataset.name not in pools else str(place)
        pools[name], aside = _parted(rows)
        left.append(aside)
    return pools, [row for aside in left for row in aside[: min(map(len, left))]]


def _parted(rows: list[Answered]) -> tuple[list[Answered], list[Answered]]:
    """Three of four rows, and the fourth."""
    return [row for at, row in enumerate(rows) if at % 4], rows[::4]


def _tasks(path: Path | None) -> list[Answered]:
    """Seed tasks with their first instance as the answer."""
    path = path or shipped.folder("templates/self_instruct") / "seeds.jsonl"
    tasks = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [
        Answered("\n\n".join(filter(None, (task["instruction"], first["input"]))), first["output"])
        for task in tasks
        for first in task["instances"][:1]
    ]


class Training:
    """Trains the embedded model anew on each set, and measures the loss of its responses.

    A conversation is cut after `length` tokens.
    """

    def __init__(
        self, folder: Path, held_out: Sequence[Answered], outside: Sequence[Answered], *, length: int
    ) -> None:
        recipe = Model(model="demo")
        self._folder, self._files = folder, resolve(recipe)
        self._chat = ChatFormat.from_model(recipe, self._files)
        self._held_out, self._outside, self._length = held_out, outside, length

    def model(self) -> Any:
        """The model as it is before training, in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self._files.path, dtype=torch.float32)

    def trained(self, rows: Sequence[Answered], seed: int) -> Losses:
        """The losses after training on these rows."""
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        # A prompt and its completion: only the tokens of the completion are learned.
        data = Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": row.instruction}],
                    "completion": [{"role": "assistant", "content": row.response}],
                }
                for row in rows
            ]
        )
        settings = SFTConfig(
            output_dir=str(self._folder / "out"), seed=seed, data_seed=seed, num_train_epochs=2, learning_rate=2e-5,
            lr_scheduler_type="cosine", warmup_steps=2, per_device_train_batch_size=_BATCH, max_length=self._length,
            use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", report_to="none",
            logging_strategy="no",
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(self._files.path)
        trainer = SFTTrainer(
            model=self.model(), args=settings, train_dataset=data, processing_class=tokenizer
        )
        trainer.train()
        return self.losses(trainer.model)

    def losses(self, model: Any) -> Losses:
        """The model's losses on rows that it was not trained on."""
        model.eval()
        return Losses(*(round(self._loss(model, rows), 4) for rows in (self._held_out, self._outside)))

    def _loss(self, model: Any, rows: Sequence[Answered]) -> float:
        """Nats a token, over all the responses' tokens."""
        import torch

        total, count = 0.0, 0
        for row in rows:
            prompt = self._chat.prompt([row.instruction])
            whole = [*prompt, *self._chat.encode(row.response)][: self._length]
            if len(whole) <= len(prompt):
                continue
            ids = torch.tensor([whole])
            with torch.inference_mode():
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
            count += len(whole) - len(prompt)
        return total / count


def _spread(losses: Sequence[Losses]) -> dict[str, float]:
    """Means over the seeds, and standard deviations between them (0 for one seed)."""
    found = {}
    for name in ("held_out", "outside"):
        values = [getattr(one, name) for one in losses]
        found[name] = round(statistics.fmean(values), 4)
        found[f"{name}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
    return found


def _show(figures: dict[str, Any], console: Console) -> None:
    title = f"loss in nats a token after training on {figures['rows_each']} rows, {figures['seeds']} seeds"
    table = Table(title=title, title_justify="left")
    for heading in ("trained on", "rows put aside", "tasks from outside"):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    table.add_row("nothing", *(f"{figures['before'][name]:.4f}" for name in ("held_out", "outside")))
    for name in (each for each, value in figures.items() if isinstance(value, dict) and each != "before"):
        cells = (
            f"{figures[name][one]:.4f} ± {figures[name][f'{one}_sd']:.4f}" for one in ("held_out", "outside")
        )
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
