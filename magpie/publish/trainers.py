"""A folder that trains a model as it is: data, the configuration of a trainer, and the one command that starts it.

Configurations are the files of recipes/train, with the published settings of Magpie-tuned models (arXiv 2406.08464).
A dataset of pairs is for preference optimization, unless the format says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal, get_args

from magpie import shipped
from magpie.data.dataset import PAIR
from magpie.errors import RunError
from magpie.publish.formats import Exported, Format, export
from magpie.publish.outputs import write_text
from magpie.runs.opened import open_dataset
from magpie.runs.run import Run

Trainer = Literal["trl", "axolotl", "llama-factory"]
TRAINERS: tuple[Trainer, ...] = get_args(Trainer)

MODEL = "Qwen/Qwen3-1.7B-Base"
"""What is trained unless another model is named: small, open, and with a chat template."""

_FORMATS: dict[tuple[Trainer, bool], Format] = {
    ("trl", False): "messages", ("trl", True): "preference", ("axolotl", False): "axolotl",
    ("axolotl", True): "axolotl", ("llama-factory", False): "llama-factory", ("llama-factory", True): "llama-factory",
}  # fmt: skip
_COMMANDS: dict[Trainer, str] = {
    "trl": "trl {stage} --config train.yaml",
    "axolotl": "axolotl train train.yaml",
    "llama-factory": "llamafactory-cli train train.yaml",
}
# LLaMA-Factory's names of chat formats, by what hub names hold; of several that fit, the first.
_TEMPLATES = (
    ("llama-3", "llama3"), ("llama3", "llama3"), ("qwen3", "qwen3_nothink"), ("qwen", "qwen"), ("gemma-3", "gemma3"),
    ("gemma", "gemma"), ("mistral", "mistral"), ("phi-4", "phi4"), ("phi-3", "phi"), ("smollm2", "smollm2"),
    ("olmo", "olmo"), ("granite", "granite3"), ("yi-", "yi"),
)  # fmt: skip
_OURS = {"train.yaml", "train.sh", "data"}


@dataclass(frozen=True, slots=True)
class TrainerFolder:
    """What was written: the data, and the command that trains with it when it is run in the folder."""

    exported: Exported
    command: str


def export_for_trainer(
    source: Run | str | Path,
    *,
    trainer: Trainer,
    out: Path,
    model: str = MODEL,
    overwrite: bool = False,
    **options: Any,
) -> TrainerFolder:
    """Write a folder for a trainer. `options` are those of `export`, but for format and columns.

    Raises RunError where the folder holds other things, or is there and not to `overwrite`, and what `export` raises.
    """
    _refuse(out, overwrite=overwrite)
    # Of each pair the chosen answer could train, too; but who makes pairs has paid for two answers.
    pairs = set(PAIR) <= set(open_dataset(source).schema.names)
    stage = "dpo" if pairs else "sft"
    # The data is named `train` with a split and without: so the configuration finds it.
    parts = options.get("split", (1.0,))
    name = "data.jsonl" if len(parts) > 1 else "train.jsonl"
    data = out / "data" / name
    exported = export(
        source, format=_FORMATS[trainer, pairs], out=data, columns=[], overwrite=overwrite, **options
    )
    text = (shipped.folder("recipes/train") / f"{trainer}-{stage}.yaml").read_text(encoding="utf-8")
    text = Template(text).substitute(model=model, template=template_of(model))
    files = [file.name for file in exported.files if not file.name.startswith("data-")] or [
        file.name for file in exported.files if file.name.startswith("data-train")
    ]
    command = _COMMANDS[trainer].format(stage=stage)
    write_text(out / "train.yaml", _with_files(text, trainer, files))
    write_text(out / "train.sh", f'#!/bin/sh\ncd "$(dirname "$0")" && exec {command} "$@"\n')
    (out / "train.sh").chmod(0o755)
    return TrainerFolder(exported, command)


def template_of(model: str) -> str:
    """LLaMA-Factory's name for the chat format of a model, by the model's name; `default` where it is not known."""
    return next((name for held, name in _TEMPLATES if held in model.lower()), "default")


def _with_files(text: str, trainer: Trainer, files: list[str]) -> str:
    """The configuration with these files of data in the place of data/train.jsonl."""
    if files == ["train.jsonl"]:
        return text
    if trainer == "llama-factory":
        names = ", ".join(name.partition(".")[0] for name in files)
        return text.replace("dataset: train\n", f"dataset: {names}\n")
    if trainer == "trl":
        return text.replace("data/train.jsonl", f"[{', '.join(f'data/{name}' for name in files)}]")
    start, end = text.index("  - path:"), text.index("sequence_len:")
    entry = text[start:end]
    entries = "".join(entry.replace("data/train.jsonl", f"data/{name}") for name in files)
    return text[:start] + entries + text[end:]


def _refuse(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out} is a file; name a folder with --out")
    held = sorted(path.name for path in out.iterdir())
    other = next((name for name in held if name not in _OURS), None)
    if other is not None:
        raise RunError(f"{out} holds other things ({other}); choose an empty folder with --out")
    if held and not overwrite:
        raise RunError(f"{out} is there already; replace it with --overwrite, or name another folder")
