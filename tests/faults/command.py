"""The command as people run it: a process of its own, with what it printed and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from builds import small_recipe

from magpie.runs.record import recipe_text

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "MAGPIE_LOG"},
    "HF_ENDPOINT": "http://127.0.0.1:9",  # no hub: what is not on this machine is known nowhere
}


def start(*arguments: str | Path, before: Sequence[str] = (), **settings: Any) -> subprocess.Popen[str]:
    """Start the command and leave it running; `before` is put in front of it."""
    command = [*before, sys.executable, "-m", "magpie", *map(str, arguments)]
    settings.setdefault("env", ENVIRONMENT)
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **settings,
    )


def magpie(
    *arguments: str | Path, before: Sequence[str] = (), **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    process = start(*arguments, before=before, **settings)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def done(result: subprocess.CompletedProcess[str]) -> str:
    """What a command printed that went well, and complained of nothing."""
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def refusal(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line with which a command refused."""
    assert result.returncode == code, f"exit code {result.returncode}: {result.stderr}"
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("magpie: ")
    assert "internal error" not in lines[0], lines[0]
    return lines[0].removeprefix("magpie: ")


def write_recipe(path: Path, **changes: Any) -> Path:
    """A small scripted recipe (`builds.small_recipe`) as a file."""
    path.write_text(recipe_text(small_recipe(**changes)), encoding="utf-8")
    return path


def write_raw(path: Path, **changes: Any) -> Path:
    """The same, with `changes` that no recipe could hold."""
    raw = yaml.safe_load(recipe_text(small_recipe()))
    path.write_text(yaml.safe_dump(raw | changes, sort_keys=False), encoding="utf-8")
    return path


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path, *, chat_template: str | None = CHATML) -> Path:
    """A model folder without weights: bytes as tokens, ChatML's special tokens, and a config."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    settings |= {} if chat_template is None else {"chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder
