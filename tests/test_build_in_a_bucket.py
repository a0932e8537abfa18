"""A run in a bucket is what a run in a folder is, for every verb; on a real S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe, small_self_instruct
from standing import Asked, contents
from storage.buckets import bucket, s3_server  # noqa: F401

import magpie
from magpie.build import build
from magpie.errors import RunError
from magpie.runs.earlier import REPLACED
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.storage import open_storage


def files(place: str | Path) -> dict[str, bytes]:
    """What a build promises to make identical, by name."""
    storage = open_storage(place)
    names = [name for name in storage.names() if name.startswith(("steps/", "dataset/"))]
    return {name: storage.read(name) for name in [*names, "recipe.yaml", "report.json"]}


def test_it_holds_the_files_of_a_run_in_a_folder(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    build(small_recipe(), tmp_path / "run", executor="local")
    run = build(small_recipe(), bucket, executor="local")
    assert files(bucket) == files(tmp_path / "run")
    assert verify(run) == []
    assert run.table().equals(Run.open(tmp_path / "run").table())


def test_rounds_go_on_there_from_those_that_are_committed(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    build(small_self_instruct(), tmp_path / "run", executor="local")
    build(small_self_instruct(), bucket, executor="local", stop_after="bootstrap")
    storage = open_storage(bucket)
    for name in storage.names("steps/01-bootstrap/"):
        if name >= "steps/01-bootstrap/00003":
            storage.delete(name)
    assert verify(build(small_self_instruct(), bucket, executor="local")) == []
    assert files(bucket) == files(tmp_path / "run")


def test_it_goes_on_where_it_stopped(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    build(small_recipe(), tmp_path / "run", executor="local")
    build(small_recipe(), bucket, executor="local", stop_after="clean")
    storage = open_storage(bucket)
    storage.delete("steps/01-instruct/00002.parquet")
    build(small_recipe(), bucket, executor="local")
    assert files(bucket) == files(tmp_path / "run")
    with pytest.raises(RunError):
        build(small_recipe(seed=9), bucket, executor="local")


def test_it_grows_and_is_changed_there(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    build(small_recipe(rows=40), bucket, executor="local")
    grown = build(small_recipe(), bucket, executor="local")
    assert contents(grown) == contents(build(small_recipe(), tmp_path / "run", executor="local"))
    asked, judged = Asked(), small_recipe(tag={"max_tokens": 200})
    changed = build(judged, bucket, yes=True, executor=asked.executor)
    assert {key[2] for key in asked} == {200}  # of a judge: every response stood
    assert contents(changed) == contents(build(judged, tmp_path / "judged", executor="local"))
    assert verify(changed) == [] and changed.storage.names(REPLACED) == []


def test_every_verb_reads_it(tmp_path: Path, bucket: str) -> None:  # noqa: F811
    build(small_recipe(), bucket, executor="local")
    assert magpie.status(bucket).finished
    assert magpie.verify(bucket) == []
    kept = magpie.filter(bucket, small_recipe().filter, f"{bucket}/filtered/again").kept
    assert kept > 0
    assert magpie.export(bucket, "messages", tmp_path / "x.jsonl").rows == kept
    magpie.show(bucket)
    assert len(Run.open(bucket).dataset()) == magpie.status(bucket).kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "replicas"), [(small_recipe, 1), (small_recipe, 2), (small_self_instruct, 2)]
)
def test_workers_on_ray_fill_it(tmp_path: Path, bucket: str, recipe: Any, replicas: int) -> None:  # noqa: F811
    pytest.importorskip("ray", reason="Ray is not installed")
    build(recipe(), tmp_path / "run", executor="local")
    run = build(recipe(), bucket, executor="ray", replicas=replicas)
    assert files(bucket) == files(tmp_path / "run")
    assert verify(run) == []
