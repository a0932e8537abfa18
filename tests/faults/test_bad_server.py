"""A completion server that refuses, hangs, or answers what it should not: one line, and the build can go on later."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from builds import tree
from command import done, magpie, refusal, start, write_recipe, write_tokenizer
from engines.loopback import Answer, completion, serving

from magpie.runs.run import Run
from magpie.runs.verify import verify


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asks a server; its address is given with --set."""
    folder = tmp_path_factory.mktemp("recipe")
    model = write_tokenizer(folder / "model")
    server = {"url": "http://127.0.0.1:9/v1", "timeout": 0.3, "retries": 1, "backoff": 0.01, "concurrency": 8}
    generator = {"model": str(model), "engine": "server", "context_length": 1024, "server": server}
    return write_recipe(
        folder / "small.yaml",
        rows=48,
        shard_rows=16,
        models={"generator": generator, "embedder": {"model": "scripted"}},
        tag=None,
        filter=None,
        extend=None,
    )


def build(recipe: Path, url: str, folder: Path) -> Any:
    return magpie("build", recipe, "--set", f"models.generator.server.url={url}", "--out", folder)


def test_nothing_listens(tmp_path: Path, recipe: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    said = refusal(build(recipe, url, tmp_path / "run"))
    assert "nothing answers at" in said
    assert url in said


def test_it_listens_and_never_answers(tmp_path: Path, recipe: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        said = refusal(build(recipe, url, tmp_path / "run"))
    assert url in said


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer("<html>hello</html>"), r"no JSON with `choices`: <html>hello</html>; set `server\.url` to"),
        (Answer({"choices": [{"text": 7}]}), r"without `usage`.*; set `server\.url` to"),
        (Answer({"error": "wrong key"}, 401), r"answers 401 .*MAGPIE_API_KEY"),
        (Answer({"error": "broken"}, 500), r"failed on 16 prompts in a row, .*500.*; read its log"),
        (Answer(late=0.5, body={}), r"failed on 16 prompts in a row, .*no whole answer.*; read its log"),
        (Answer(hang_up=True), r"failed on 16 prompts in a row, .*disconnected.*; read its log"),
    ],
    ids=["html", "not text", "401", "500", "late", "hangs up"],
)  # fmt: skip
def test_it_answers_what_it_should_not(tmp_path: Path, recipe: Path, answer: Answer, line: str) -> None:
    with serving(lambda _: answer) as server:
        said = refusal(build(recipe, server.url, tmp_path / "run"))
    assert server.url in said
    assert re.search(line, said), said


def test_a_server_that_dies_in_mid_run_loses_nothing(tmp_path: Path, recipe: Path) -> None:
    """The build goes on, at another address, and what was made before is still there."""

    def write(body: dict[str, Any]) -> Answer:
        return completion(
            f"Name the {body.get('seed', 0)}th thing to do in a garden.", prompt=len(body["prompt"])
        )

    asked: list[int] = []
    enough = threading.Event()

    def dying(body: dict[str, Any]) -> Answer:
        asked.append(1)
        if len(asked) > 46:  # so at least one of three shards of 16 has all its answers
            enough.set()
            return Answer(hang_up=True, late=0.4)
        return write(body)

    folder = tmp_path / "run"
    with ExitStack() as life:
        server = life.enter_context(serving(dying))
        process = start(
            "build", recipe, "--set", f"models.generator.server.url={server.url}", "--out", folder
        )
        assert enough.wait(60)
        life.close()
        out, err = process.communicate(timeout=60)
    assert "nothing answers at" in refusal(subprocess.CompletedProcess([], process.returncode, out, err))
    before = tree(folder)
    assert any("instruct" in name for name in before)
    with serving(write) as server:
        done(build(recipe, server.url, folder))
    after = tree(folder)
    assert all(after[name] == before[name] for name in before if name != "recipe.yaml")
    assert verify(Run.open(folder)) == []
