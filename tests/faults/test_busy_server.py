"""A whole build on a server that is busy for long, answers oddly now and then, or repeats the key it was given."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import write_recipe, write_tokenizer
from engines.loopback import Answer, Behave, completion, serving
from fuzzing import run as command

from magpie.runs.run import Run
from magpie.runs.verify import verify

KEY = "sk-abcdef-0123456789"
HALVES = ("sk-first-half-1", "sk-second-half-2")
LOUD = {"MAGPIE_API_KEY": KEY, "MAGPIE_LOG": "debug", "MAGPIE_DEBUG": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asks a server for instructions and answers; its address is given with --set."""
    from transformers import AutoTokenizer  # noqa: F401  it takes seconds, which are not those of the first test

    folder = tmp_path_factory.mktemp("recipe")
    model = write_tokenizer(folder / "model")
    server = {"url": "http://127.0.0.1:9/v1", "retries": 1, "backoff": 0.01, "patience": 0.2}
    generator = {"model": str(model), "engine": "server", "context_length": 1024, "server": server}
    models = {"generator": generator, "embedder": {"model": "scripted"}}
    changes = {"tag": None, "filter": None, "extend": None, "dedup": None, "language": None}
    return write_recipe(folder / "small.yaml", rows=24, shard_rows=8, models=models, **changes)


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Busy servers are asked again at once, and the log of one build is not that of the next test."""
    monkeypatch.setattr("magpie.engines.server.client._SHORTEST_WAIT", 0.01)
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    yield
    logging.getLogger().setLevel(level)
    logging.getLogger().handlers[:] = handlers


def build(recipe: Path, behave: Behave, folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    with serving(behave, cards=[{"id": "served", "max_model_len": 1024}]) as server:
        address = f"models.generator.server.url={server.url}"
        return command(["build", recipe, "--set", address, "--out", folder], environment)


def write(body: dict[str, Any]) -> Answer:
    """A text of its own for each prompt and seed."""
    number = sum(body["prompt"]) % 1000 + 1000 * body.get("seed", 0)
    return completion(f"Name the {number}th thing to do in a garden.", prompt=len(body["prompt"]))


class Numbers:
    """Counts requests, and knows one that comes again: greedy ones have no seed, the first step's one prompt."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}

    def __call__(self, body: dict[str, Any]) -> int:
        return self._numbers.setdefault((body.get("seed"), *body["prompt"]), len(self._numbers))


def rejected(folder: Path) -> list[str]:
    return [why for why in Run.open(folder).table(["rejected"])["rejected"].to_pylist() if why]


def last_line(said: str) -> str:
    """The command's own last word: above it stands only the log that was asked for."""
    return said.splitlines()[-1]


def shows_nothing_of(parts: tuple[str, ...], folder: Path, *said: str) -> bool:
    """Whether no file of a run and nothing of what was said holds any of the parts of a key."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "log.jsonl" for path in files)
    # What Parquet has packed: every text column of the shards, and what stands in their stamps.
    texts = [*said, *(path.read_text(errors="replace") for path in files)]
    for path in files:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts += [repr(table.schema.metadata), repr(table.to_pylist())]
    return not [part for part in parts for text in texts if part in text]


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_stays_busy_ends_the_build_and_costs_no_row(
    tmp_path: Path, recipe: Path, status: int
) -> None:
    asked: list[int] = []

    def busy(body: dict[str, Any]) -> Answer:
        asked.append(1)
        # Some answers come first, and refusals among them: more in a row than the retries would outlast.
        is_busy = len(asked) > 36 or len(asked) % 4
        said = {"error": f"slow down, {KEY}"}
        return Answer(said, status, {"Retry-After": "0.01"}) if is_busy else write(body)

    folder = tmp_path / "run"
    code, out, err = build(recipe, busy, folder, LOUD)
    assert code == 1 and "Traceback" not in err
    assert "is busy" in last_line(err) and "no row is lost: run the same command again" in last_line(err)
    state, so_far, _ = command(["status", folder, "--json"])
    assert state == 0
    assert shows_nothing_of((KEY,), folder, out, err, so_far)

    code, out, err = build(recipe, write, folder, LOUD)
    assert code == 0, err
    assert verify(Run.open(folder)) == [] and rejected(folder) == []
    assert shows_nothing_of((KEY,), folder, out, err)


@pytest.mark.parametrize(
    "odd", ["<html>restarting</html>", {"error": {"message": "no slot"}}, "data: {}\n\n"]
)
def test_an_odd_answer_now_and_then_costs_no_more_than_its_row(
    tmp_path: Path, recipe: Path, odd: Any
) -> None:
    number_of = Numbers()

    def now_and_then(body: dict[str, Any]) -> Answer:
        # One prompt in five gets it, each time that it is tried.
        return Answer(odd) if number_of(body) % 5 == 4 else write(body)

    folder = tmp_path / "run"
    code, _, err = build(recipe, now_and_then, folder, {})
    assert (code, err) == (0, "")
    assert verify(Run.open(folder)) == []
    assert 0 < len(rejected(folder)) < 12 and all("engine error" in why for why in rejected(folder))


@pytest.mark.parametrize(
    ("text", "reason", "kept"),
    [
        (None, "stop", False),
        ({"a": 1}, "stop", False),
        ("x\ud83dy", "stop", True),
        ("x\x00y", "stop", True),
        ("What is a wren?<|im_end|>\n", "eos", True),
        ("Hm", "content_filter", False),
    ],
    ids=["null", "object", "surrogate", "nul", "special", "filter"],
)
def test_an_odd_text_is_mended_or_rejects_its_row(
    tmp_path: Path, recipe: Path, text: Any, reason: str, kept: bool
) -> None:
    number_of = Numbers()

    def odd(body: dict[str, Any]) -> Answer:
        answer = write(body)
        if number_of(body) % 3 == 1:
            answer.body["choices"][0] |= {"text": text, "finish_reason": reason}
        return answer

    folder = tmp_path / "run"
    assert build(recipe, odd, folder, {})[0] == 0
    assert verify(Run.open(folder)) == []
    table = Run.open(folder).table(["instruction", "response", "rejected"]).to_pylist()
    errors = [row for row in table if row["rejected"] and "engine error" in row["rejected"]]
    assert bool(errors) is not kept
    for row in table:
        words = f"{row['instruction']} {row['response']}".split() if row["rejected"] is None else []
        assert not {"\x00", "<|im_end|>", "None", "{'a':"} & set(words)


@pytest.mark.parametrize("key", ["\n".join(HALVES), "\x1b[2J".join(HALVES), f"{HALVES[0]}\r\n"])
def test_no_part_of_a_key_is_shown_or_logged(tmp_path: Path, recipe: Path, key: str) -> None:
    def repeat(body: dict[str, Any]) -> Answer:
        return Answer({"error": f"{key.strip()} is not a key"}, 401)

    folder = tmp_path / "run"
    code, out, err = build(recipe, repeat, folder, LOUD | {"MAGPIE_API_KEY": key})
    assert code == 1 and "MAGPIE_API_KEY" in last_line(err)
    assert shows_nothing_of(HALVES, folder, out, err)
