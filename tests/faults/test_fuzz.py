"""Over 2,000 odd inputs, from every side: the command ends well, or with one clear line, and never hangs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builds import small_recipe
from fuzzing import (
    SECONDS,
    TEXTS,
    VALUES,
    WORDS,
    ends_well,
    fuzz,
    limited,
    mutated,
    places,
    spoiled,
    tried,
)
from hypothesis import given
from hypothesis import strategies as st

from magpie import shipped
from magpie.build import build
from magpie.engines.base import Completion
from magpie.errors import MagpieError
from magpie.recipe.loading import load_recipe
from magpie.runs.record import recipe_text

sys.path.insert(0, str(Path(__file__).parent.parent / "engines"))
from asking import ask
from loopback import serving, well
from odd_inputs import ANSWERS, CARD, NAMES, OF_ENVIRONMENT, OPTIONS, PREDICATES, RECORD, SAFE, as_file

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the command does not raise them

ROWS = 8
FILTERS = ("demo", "strict", "pro-300k")


@pytest.fixture(scope="module", autouse=True)
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder to write in, and no hub."""
    import huggingface_hub.constants as hub

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setenv("MAGPIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MAGPIE_DEBUG", raising=False)
        patch.setattr(hub, "HF_HUB_OFFLINE", True)
        # Lingua takes longer to load than all else together: these texts are English.
        patch.setattr("magpie.steps.language._load", lambda: None)
        patch.setattr("magpie.steps.language.detect", lambda texts: iter(["en"] * len(texts)))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    build(small_recipe(rows=ROWS, shard_rows=4), folder)
    return folder


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """Recipes with every section there is, each as plain values."""
    whole = {name: yaml.safe_load(recipe_text(load_recipe(name))) for name in shipped.names("recipes")}
    return whole | {"small": yaml.safe_load(recipe_text(small_recipe(rows=ROWS)))}


@pytest.fixture
def folder() -> Iterator[Callable[[], Path]]:
    """New folders, one for each input."""
    made: list[str] = []

    def new() -> Path:
        while made:
            shutil.rmtree(made.pop(), ignore_errors=True)
        made.append(tempfile.mkdtemp(prefix="magpie-fuzz-"))
        return Path(made[0])

    yield new
    while made:
        shutil.rmtree(made.pop(), ignore_errors=True)


def _write(path: Path, value: Any) -> Path:
    path.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


@fuzz(360)
@given(data=st.data())
def test_recipes(data: st.DataObject, described: dict[str, Any], folder: Callable[[], Path]) -> None:
    here = folder()
    # Only the small one is built: the others load a language detector and an embedder, which takes most of a minute.
    verb = data.draw(st.sampled_from(["recipe", "plan", "dry run", "build"]))
    name = "small" if verb == "build" else data.draw(st.sampled_from(sorted(described)))
    value = mutated(data, json.loads(json.dumps(described[name])))
    if verb == "build":  # a scripted engine that is told to be slow is no fault
        value["models"] = described["small"]["models"]
    file = _write(here / "recipe.yaml", value)
    if data.draw(st.integers(0, 3)) == 0:
        file.write_bytes(spoiled(data, file.read_bytes()))
    scripted = ("--engine", "scripted", "--rows", ROWS, "--out", here / "run")
    arguments = {
        "recipe": ("recipe", file),
        "plan": ("plan", file, "--gpu", "h100-80gb"),
        "dry run": ("build", file, "--dry-run", *scripted),
        "build": ("build", file, *scripted),
    }
    ends_well(*arguments[verb])


@fuzz(250)
@given(data=st.data())
def test_settings(data: st.DataObject, described: dict[str, Any], folder: Callable[[], Path]) -> None:
    name = data.draw(st.sampled_from(sorted(described)))
    file = _write(folder() / "recipe.yaml", described[name])
    changes: list[str] = []
    for _ in range(data.draw(st.integers(1, 3))):
        key = (
            ".".join(map(str, data.draw(st.sampled_from(places(described[name])))))
            if data.draw(st.integers(0, 5))
            else data.draw(TEXTS)
        )
        value = data.draw(VALUES)
        text = value if isinstance(value, str) else repr(value)
        changes += ["--set", f"{key}={text}".replace("\x00", "")]
    ends_well("recipe", file, *changes)


@fuzz(260)
@given(data=st.data())
def test_filters(data: st.DataObject, finished: Path, folder: Callable[[], Path]) -> None:
    here = folder()
    name = data.draw(st.sampled_from(FILTERS))
    value = yaml.safe_load((shipped.folder("filters") / f"{name}.yaml").read_text())
    value["rules"] = [*value["rules"][:2], {"name": data.draw(WORDS) or "x", "where": data.draw(PREDICATES)}]
    if data.draw(st.booleans()):
        mutated(data, value)
    file = _write(here / "filter.yaml", value)
    if data.draw(st.integers(0, 4)) == 0:
        file.write_bytes(spoiled(data, file.read_bytes()))
    more = data.draw(st.sampled_from([("--explain",), ("--compare", "demo"), ("--out", here / "out")]))
    ends_well("filter", finished, file, *more)


@fuzz(330)
@given(data=st.data())
def test_files_of_records(data: st.DataObject, folder: Callable[[], Path]) -> None:
    here = folder()
    kind = data.draw(st.sampled_from(["json", "jsonl", "csv", "parquet"]))
    content = as_file(kind, data.draw(st.lists(RECORD, max_size=4)))
    if data.draw(st.booleans()):
        content = spoiled(data, content)
    ending = (
        kind
        if data.draw(st.integers(0, 5))
        else data.draw(st.sampled_from(["json", "csv", "gz", "txt", "json.zst"]))
    )
    file = here / f"records.{ending}"
    file.write_bytes(content)
    chosen = _write(here / "filter.yaml", {"rules": [{"name": "any", "where": "instruction IS NOT NULL"}]})
    more = data.draw(st.sampled_from([("--explain",), ("--out", here / "out"), ("--compare", "demo")]))
    ends_well("filter", chosen, "--input", file if data.draw(st.booleans()) else here, *more)


@fuzz(330)
@given(data=st.data())
def test_folders_of_runs(data: st.DataObject, finished: Path, folder: Callable[[], Path]) -> None:
    here = folder()
    run = here / "run"
    shutil.copytree(finished, run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    for _ in range(data.draw(st.integers(1, 3))):
        file, other = data.draw(st.sampled_from(files)), data.draw(st.sampled_from(files))
        _spoil_file(data, file, other)
    verb = data.draw(
        st.sampled_from(
            [
                ("status", run),
                ("status", run, "--json"),
                ("verify", run),
                ("show", run),
                ("show", run, "--rejected"),
                ("show", run, "1"),
                ("filter", run, "demo", "--explain"),
                ("export", run, "--format", "messages", "--out", here / "out.jsonl"),
                ("columns", run),
                ("build", run / "recipe.yaml", "--out", run),
            ]
        )
    )
    ends_well(*verb, many_lines=verb[0] == "verify")


def _spoil_file(data: st.DataObject, file: Path, other: Path) -> None:
    what = data.draw(st.sampled_from(["bytes", "bytes", "bytes", "swap", "remove", "folder", "json"]))
    if not file.is_file():
        return
    if what == "bytes":
        file.write_bytes(spoiled(data, file.read_bytes()))
    elif what == "swap" and other.is_file():
        mine = file.read_bytes()
        file.write_bytes(other.read_bytes())
        other.write_bytes(mine)
    elif what == "json" and file.suffix in {".json", ".yaml"}:
        _spoil_values(data, file)
    elif what in {"remove", "folder"}:
        file.unlink()
        if what == "folder":
            file.mkdir()


def _spoil_values(data: st.DataObject, file: Path) -> None:
    try:
        value = yaml.safe_load(file.read_text())
        file.write_text(json.dumps(mutated(data, value)))
    except (ValueError, yaml.YAMLError, TypeError, KeyError, IndexError):
        file.write_text("{")


@fuzz(330)
@given(data=st.data())
def test_arguments(data: st.DataObject, finished: Path, folder: Callable[[], Path]) -> None:
    here = folder()
    word = (TEXTS | st.sampled_from([str(finished), str(here / "x.jsonl"), "demo", "air"])).map(
        lambda text: text.replace("\x00", "")
    )
    words = data.draw(st.lists(st.sampled_from(OPTIONS) | word, max_size=5))
    verb = data.draw(st.sampled_from([*SAFE, "build", "doctor", "tune"]))
    if verb == "build":
        words += ["--dry-run", "--engine", "scripted"]
    elif verb == "doctor":  # a sample loads the embedder, which takes most of a minute
        words += ["--engine", "scripted", "--no-sample"]
    elif verb == "tune":
        words += [
            "--engine",
            "scripted",
            "--temperatures",
            data.draw(st.sampled_from(["-1", "x", "", "nan"])),
        ]
    ends_well(verb, *words, many_lines=verb == "verify")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


@fuzz(300)
@given(data=st.data())
def test_servers_replies(data: st.DataObject, server: Any) -> None:
    server.cards = data.draw(st.lists(CARD, max_size=2) | VALUES | st.just([{"id": "wanted"}]))
    server.version = data.draw(st.none() | st.dictionaries(TEXTS | st.just("version"), VALUES, max_size=2))
    server.description = data.draw(
        st.none() | st.dictionaries(TEXTS | st.just("components"), VALUES, max_size=2)
    )
    replies = data.draw(ANSWERS)
    left = list(replies)
    server.behave = lambda body: left.pop(0) if left else well(body)
    with limited():
        try:
            results = ask(server.url, [5, 6, 7, 8], [1, 2], opened={"decode": str, "bos_id": 1}, timeout=0.5)
        except MagpieError as error:
            results = [error]
    for result in results:
        assert isinstance(result, Completion | MagpieError), (server.cards, replies, repr(result))
        if isinstance(result, MagpieError):
            assert str(result).strip() and "Traceback" not in str(result)


@fuzz(260)
@given(data=st.data())
def test_environments(data: st.DataObject, finished: Path, folder: Callable[[], Path]) -> None:
    here = folder()
    environment = data.draw(st.dictionaries(NAMES, OF_ENVIRONMENT, min_size=1, max_size=4))
    verb = data.draw(
        st.sampled_from(
            [
                ("status", finished),
                ("verify", finished),
                ("show", finished),
                ("columns",),
                ("recipes",),
                ("recipe", "demo"),
                ("--help",),
                ("filter", finished, "demo", "--explain"),
                ("filter", finished, "demo", "--out", here / "out"),
                ("export", finished, "--format", "alpaca", "--out", here / "out.json"),
                ("build", "demo", "--dry-run", "--engine", "scripted"),
                ("build", finished / "recipe.yaml", "--out", here / "run"),
                ("plan", "demo", "--gpu", "h100-80gb"),
                ("doctor", "any", "--engine", "scripted", "--no-sample"),
            ]
        )
    )
    ends_well(*verb, environment=environment, many_lines=verb[0] == "verify")


def test_two_thousand_inputs_were_tried(request: pytest.FixtureRequest) -> None:
    print(f"{tried['inputs']} inputs were tried, each within {SECONDS} s")
    if request.session.testscollected and len(_ran(request)) < 8:
        pytest.skip("only some of the tests of this file were asked for")
    assert tried["inputs"] >= 2000


def _ran(request: pytest.FixtureRequest) -> list[str]:
    return [
        item.name
        for item in request.session.items
        if item.path == Path(__file__) and item.name != request.node.name
    ]
