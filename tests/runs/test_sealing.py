"""What a run says about itself is sealed: what is lost or changed is found, had back from the shards, and mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.errors import RecipeChangedError
from magpie.figures.status import status
from magpie.runs.record import recorded_recipe
from magpie.runs.run import Run
from magpie.runs.sealing import RUN_MANIFEST, read_run_manifest, recovered_record
from magpie.runs.verify import not_sealed, stray_problem, strays, verify
from magpie.storage import LocalStorage

FILES = ("recipe.yaml", "fingerprints.json", "report.json", RUN_MANIFEST, "dataset/.manifest.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(small_recipe(), tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "2", 1))


def lose(path: Path) -> None:
    path.unlink()


def swap_for_a_folder_of_nothing(path: Path) -> None:
    path.write_bytes(b"")


def test_the_manifest_names_every_file_of_the_run(whole: Path) -> None:
    run = Run.open(whole)
    files = read_run_manifest(run.storage)
    assert files is not None
    outside = {"log.jsonl", "run.lock", RUN_MANIFEST}
    assert set(files) == set(run.storage.names()) - outside
    assert verify(run) == [] and not_sealed(run) is None


@pytest.mark.parametrize("damage", [flip, cut, edit, lose, swap_for_a_folder_of_nothing])
@pytest.mark.parametrize("name", FILES)
def test_what_is_lost_or_changed_is_found_and_mended(
    folder: Path, whole: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    run = Run.open(folder)
    assert any(name in problem for problem in verify(run)), name
    status(run)
    assert run.recipe == Run.open(whole).recipe
    build(small_recipe(), folder)
    assert verify(Run.open(folder)) == []
    assert tree(folder) == tree(whole)
    for file in FILES:
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    assert not (folder / "quarantine").exists()


def test_all_of_it_lost_at_once_is_recovered_record(folder: Path, whole: Path) -> None:
    for name in ("recipe.yaml", "fingerprints.json", "report.json", RUN_MANIFEST):
        (folder / name).unlink()
    run = Run.open(folder)
    assert run.recipe == small_recipe() and len(run.notes) == 1
    with pytest.raises(RecipeChangedError, match="seed"):
        build(small_recipe(seed=5), folder)
    build(small_recipe(), folder)
    assert tree(folder) == tree(whole) and verify(Run.open(folder)) == []


def test_another_recipe_is_still_refused_when_the_recorded_one_was_edited(folder: Path) -> None:
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text().replace("seed: 0", "seed: 5"))
    with pytest.raises(RecipeChangedError, match="seed"):
        build(small_recipe(seed=5), folder)


def as_before(folder: Path) -> None:
    """Make the run what an earlier version left: no seals, no manifest, nothing in the shards' metadata."""
    from magpie.storage.sealed import Stamp, write_shard

    run = Run.open(folder)
    for step in run.steps:
        for shard in range(run.shards):
            name = run.shard_name(step, shard)
            stamp = Stamp(**json.loads(pq.read_metadata(folder / name).metadata[b"magpie"]))
            write_shard(run.storage, name, run.read(step, shard), stamp, replace=True)
    recipe = (folder / "recipe.yaml").read_text().splitlines(keepends=True)[:-1]
    (folder / "recipe.yaml").write_text("".join(recipe))
    facts = json.loads((folder / "fingerprints.json").read_bytes())
    del facts["seal"]
    (folder / "fingerprints.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    (folder / RUN_MANIFEST).unlink()


def test_a_run_of_an_earlier_version_opens_verifies_and_goes_on(folder: Path) -> None:
    as_before(folder)
    run = Run.open(folder)
    assert recovered_record(run.storage) is None and run.notes == ()
    assert verify(run) == []
    assert "not sealed" in str(not_sealed(run))
    (folder / "steps" / "01-instruct" / "00002.parquet").unlink()
    build(small_recipe(), folder)
    assert verify(Run.open(folder)) == [] and not_sealed(Run.open(folder)) is None
    assert not (folder / "quarantine").exists()


def test_a_stray_file_among_the_shards_is_said_and_left_alone(folder: Path) -> None:
    (folder / "steps" / "notes.txt").write_text("mine")
    (folder / "steps" / ".DS_Store").write_text("nobody's")
    run = Run.open(folder)
    (problem,) = verify(run)
    assert [problem] == [stray_problem(run, name) for name in strays(run)] and "move it away" in problem
    build(small_recipe(), folder)
    assert (folder / "steps" / "notes.txt").read_text() == "mine"
    assert "notes.txt" in (folder / "log.jsonl").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "models: &a0 {x: [1]}\n"
        + "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 10)),
        "models: " + "[" * 50_000,
        "models: {a: &x [*x]}",
        "\x00",
    ],
    ids=["a bomb", "deep", "a circle", "no text"],
)
def test_a_recorded_recipe_is_read_within_limits(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert recorded_recipe(LocalStorage(tmp_path)) is None


def test_a_recipe_that_a_build_wrote_may_be_larger_than_one_that_a_person_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the texts of the files that the recipe names."""
    monkeypatch.setattr("magpie.recipe.yaml_text._MOST_BYTES", 1_000)
    assert Run.open(folder).recipe == small_recipe()
    assert (recorded_recipe(LocalStorage(folder)) or {})["name"] == small_recipe().name


def test_what_a_shard_says_is_unpacked_within_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(folder)
    assert recovered_record(storage) is not None
    monkeypatch.setattr("magpie.runs.sealing._LARGEST", 1_000)
    assert recovered_record(storage) is None


@pytest.mark.parametrize("name", [RUN_MANIFEST, "fingerprints.json", "dataset/.manifest.json"])
def test_endless_nesting_is_damage_that_a_build_mends(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100_000)
    assert any(name.rpartition("/")[2] in problem for problem in verify(Run.open(folder)))
    build(small_recipe(), folder)
    assert verify(Run.open(folder)) == []
