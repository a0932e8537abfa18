"""Texts that a terminal would obey, wherever they come from: none reaches the output of a command as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe
from command import write_recipe, write_tokenizer
from engines.loopback import Answer, serving, well
from fuzzing import run as command

from magpie.build import build
from magpie.storage import LocalStorage
from magpie.storage.sealed import Stamp, read_shard, write_shard

TITLE = "\x1b]0;pwned\x07"  # sets the title of the window
CLEAR = "\x1b[2J"
TURNED = "\u202egnp.exe"  # shown the other way round
HOSTILE = f"{TITLE}{CLEAR}{TURNED}"


def said(*words: object, code: int | None = None) -> str:
    """What a command says, which has no character in it that acts."""
    found, out, err = command(words)
    assert code is None or found == code, err
    for character in ("\x1b", "\x07", "\u202e", "\x9b"):
        assert character not in out + err, (words, out, err)
    return out + err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer  # noqa: F401  it takes seconds, which are not those of the first test

    return write_tokenizer(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    build(small_recipe(rows=8, shard_rows=4), folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def asking(model: Path, folder: Path, url: str, **server: Any) -> Path:
    settings = {"url": url, "retries": 0, "backoff": 0.01, "patience": 0.1, **server}
    generator = {"model": str(model), "engine": "server", "context_length": 1024, "server": settings}
    models = {"generator": generator, "embedder": {"model": "scripted"}}
    off = dict.fromkeys(("tag", "filter", "extend", "dedup", "language", "respond"))
    return write_recipe(folder / "recipe.yaml", rows=2, shard_rows=2, models=models, **off)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_the_body_of_a_servers_error(model: Path, tmp_path: Path, status: int) -> None:
    def refuse(_: dict[str, Any]) -> Answer:
        return Answer({"error": {"message": f"no {HOSTILE}"}}, status=status)

    with serving(refuse, cards=[{"id": "served", "max_model_len": 1024}]) as server:
        text = said("build", asking(model, tmp_path, server.url), "--out", tmp_path / "run")
    assert "pwned" in text or status in {400, 500}  # a row that fails, and a busy server: neither is quoted


def test_the_name_of_a_served_model(model: Path, tmp_path: Path) -> None:
    cards = [{"id": f"a{HOSTILE}", "max_model_len": 1024}, {"id": "b", "max_model_len": 1024}]
    with serving(well, cards=cards) as server:
        text = said("build", asking(model, tmp_path, server.url), "--out", tmp_path / "run", code=1)
    assert "pwned" in text  # the models that it serves are named


def test_what_a_chat_template_raises(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    template = b"{{ raise_exception('no \\x1b]0;pwned\\x07 today') }}".decode("unicode_escape")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert "pwned" in said("doctor", folder, "--no-sample")


def test_what_a_shard_says_of_itself(run: Path) -> None:
    storage = LocalStorage(run)
    name = "steps/01-instruct/00000.parquet"
    table = read_shard(storage, name)
    write_shard(storage, name, table, Stamp(HOSTILE, 0, 0, 4, 8, HOSTILE, HOSTILE), replace=True)
    for verb in ("verify", "status", "show"):
        said(verb, run)
    said("build", run / "recipe.yaml", "--out", run)


def test_the_names_of_files(run: Path, tmp_path: Path) -> None:
    (run / "steps" / f"x{HOSTILE}").write_text("")
    (run / "dataset" / f"y{HOSTILE}.parquet").write_text("")
    assert "pwned" in said("verify", run, code=1)
    said("build", run / "recipe.yaml", "--out", run)
    file = tmp_path / f"z{HOSTILE}.jsonl"
    file.write_text("{")
    assert "pwned" in said("filter", "demo", "--input", file, "--explain", code=1)
    assert "pwned" in said("build", tmp_path / f"none{HOSTILE}.yaml", code=1)


def test_what_a_recipe_and_its_columns_say(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: x\nrows: 1\nmodels: {{generator: scripted}}\n{'k' * 3}: 1\n", encoding="utf-8")
    said("recipe", file, code=1)
    file.write_text('name: x\nrows: 1\nmodels: {generator: "a\\e]0;pwned\\a"}\n', encoding="utf-8")
    said("build", file, "--dry-run")
    said("plan", file, "--gpu", "h100-80gb")
