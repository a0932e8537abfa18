"""The command itself, with hf_xet, to a hub of our own; and `datasets` reads back what it pushed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from builds import scripted, small_recipe
from hub.server import TOKEN, Hub, serving
from storage.buckets import bucket, s3_server  # noqa: F401
from typed import typed

import magpie
from magpie.errors import HubError
from magpie.publish.hub.client import Patience
from magpie.publish.hub.live import Follower
from magpie.publish.hub.publishing import Wish
from magpie.runs.run import Run

NAME = "me/small"

READ_BACK = f"""
import json, datasets
counts = {{}}
for config in ("default", "raw"):
    for streaming in (False, True):
        rows = datasets.load_dataset("{NAME}", config, split="train", streaming=streaming)
        counts[f"{{config}} {{streaming}}"] = [[row["id"] for row in rows], sorted(rows.features)]
print(json.dumps(counts))
"""


def test_a_run_in_a_bucket_is_pushed(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    run = magpie.build(small_recipe(rows=48), out=bucket, executor="local")
    with serving(Hub(tmp_path / "hub")) as hub:
        environ = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        typed("push", bucket, NAME, "--license", "mit", **environ)
        files = hub.contents(NAME)
    assert files["train-00000.parquet"] == run.storage.read("dataset/train-00000.parquet")


@pytest.mark.parametrize("disabled", ["0", pytest.param("1", marks=pytest.mark.slow)], ids=["xet", "lfs"])
def test_a_push_is_read_back_by_datasets(disabled: str, tmp_path: Path) -> None:
    run = magpie.build(small_recipe(rows=48), out=tmp_path / "run")
    with serving(Hub(tmp_path / "hub")) as hub:
        environ = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        environ["HF_HUB_DISABLE_XET"] = disabled
        printed = typed("push", run.folder, NAME, "--what", "both", "--license", "mit", **environ)
        assert printed.startswith(f"{hub.url}/datasets/{NAME}: ")
        assert ("xet token" in hub.seen, "lfs put" in hub.seen) == (disabled == "0", disabled == "1")
        files = hub.contents(NAME)
        assert files["train-00000.parquet"] == (run.folder / "dataset" / "train-00000.parquet").read_bytes()
        listed = json.loads(files["checksums.json"])
        assert set(listed) == {"train-00000.parquet", "raw/train-00000.parquet"}
        assert f"{hub.url}/datasets/{NAME}/resolve/main/figures/".encode() in files["README.md"]
        assert TOKEN.encode() not in b"".join(files.values())
        assert len(hub.repositories[NAME].history()) == 2
        read = subprocess.run(
            [sys.executable, "-c", READ_BACK],
            env=os.environ | environ,
            capture_output=True,
            text=True,
            check=True,
        )
    counts = json.loads(read.stdout)
    assert counts["default False"] == counts["default True"]
    assert counts["raw False"] == counts["raw True"]
    assert counts["default True"][0] == run.dataset()["id"]
    assert len(counts["raw True"][0]) == 48


def test_a_licence_that_is_not_known_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = magpie.build(small_recipe(rows=16), out=tmp_path / "run")
    with serving(Hub(tmp_path / "hub")) as hub:
        with pytest.raises(HubError, match=r"what scripted writes is not known.*--license KEY"):
            magpie.push(run, NAME, endpoint=hub.url)
        assert not hub.repositories


def test_a_card_follows_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    recipe = small_recipe(
        rows=48, tag=None, extend=None, filter=None, models=scripted(tokens_per_second=30.0, slots=8)
    )
    place = tmp_path / "run"
    build = threading.Thread(target=magpie.build, args=(recipe, place))
    with serving(Hub(tmp_path / "hub")) as hub:
        build.start()
        while not (place / "recipe.yaml").is_file() or Run.open(place).storage.holder() is None:
            build.join(0.05)
        said: list[str] = []
        wish = Wish(NAME, endpoint=hub.url)
        patience = Patience(first=0.01)
        Follower(Run.open(place), wish, every=0.05, say=said.append, patience=patience).follow()
        build.join()
        card = hub.contents(NAME)["README.md"].decode()
        assert list(hub.contents(NAME)) == [".gitattributes", "README.md"]
        with pytest.raises(HubError, match="holds a finished dataset"):
            (repository := hub.repositories[NAME]).commit(
                "main",
                "rows",
                repository.resolve("main").tree | {".manifest.json": hub.store.add_small(b"{}")},
                "me",
            )
            Follower(Run.open(place), wish, patience=patience).follow()
    assert "A build is at work." in card
    assert said and all(line.endswith("shards are done") for line in said)


def test_a_run_that_nobody_builds_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = magpie.build(small_recipe(rows=16), out=tmp_path / "run", stop_after="instruct")
    with serving(Hub(tmp_path / "hub")) as hub:
        with pytest.raises(HubError, match="no build is at work"):
            Follower(run, Wish(NAME, endpoint=hub.url)).follow()
        assert not hub.repositories
