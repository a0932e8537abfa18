"""What a disk may do to a run: fill up, refuse to be written, lose half a file, turn a bit."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builds import tree
from command import ENVIRONMENT, done, magpie, refusal

from magpie.runs.run import Run
from magpie.runs.verify import quarantined, verify

NO_BYTECODE = ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"}  # a compiled module must not be cut by the limit


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture(scope="session")
def may_mount() -> None:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system of its own")


def in_mount(folder: Path, script: str) -> list[str]:
    """What to put before a command, so that `script` runs it ("$@") in a place where it may mount at `$folder`."""
    return ["unshare", "--mount", "sh", "-c", f"folder=$1; shift; {script}", "sh", str(folder)]


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("kilobytes", [8, 64, 200, 300])
def test_a_full_disk(tmp_path: Path, recipe: Path, whole: Path, kilobytes: int) -> None:
    """Full at start-up, in mid-phase or at a global step; with more room the same command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size={kilobytes}k tmpfs "$folder" || exit 3; "$@"; echo $? > "$folder/../code"; '
        'mount -o remount,size=16m "$folder" && "$@" && cp -r "$folder/run" "$folder/../after"'
    )
    result = magpie("build", recipe, "--out", disk / "run", before=in_mount(disk, script))
    assert (tmp_path / "code").read_text() == "1\n"
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("magpie: no space left for "), result.stderr
    assert "run the same command again" in result.stderr
    if kilobytes > 8:  # else not even the recipe could be recorded
        assert re.search(r"the whole run takes about \d+ kB, and \d+ kB of it are there$", result.stderr)
    assert tree(tmp_path / "after") == tree(whole)
    assert quarantined(Run.open(tmp_path / "after")) == []


@pytest.mark.parametrize("blocks", [4, 6, 16])
def test_a_file_may_grow_no_further(tmp_path: Path, recipe: Path, whole: Path, blocks: int) -> None:
    """A limit on the size of files (512 bytes a block) is met like a full disk, and needs no rights to set."""
    limit = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"]
    said = refusal(magpie("build", recipe, "--out", tmp_path / "run", before=limit, env=NO_BYTECODE))
    assert "cannot write" in said
    done(magpie("build", recipe, "--out", tmp_path / "run"))
    assert tree(tmp_path / "run") == tree(whole)


@pytest.mark.usefixtures("may_mount")
def test_a_read_only_disk(tmp_path: Path, recipe: Path, run: Path) -> None:
    script = 'mount --bind "$folder" "$folder" && mount -o remount,ro,bind "$folder" && exec "$@"'
    new = tmp_path / "new"
    new.mkdir()
    for folder in (new, new / "deeper", run):
        before = in_mount(run if folder == run else new, script)
        said = refusal(magpie("build", recipe, "--out", folder, before=before))
        assert "cannot write" in said
        assert "choose another folder with --out" in said
    before = in_mount(tmp_path, script)
    assert "is whole" in done(magpie("verify", run, before=before))
    assert "finished" in done(magpie("status", run, before=before))
    done(magpie("show", run, before=before))
    out = tmp_path / "x.jsonl"
    assert "cannot write" in refusal(magpie("export", run, "--format", "alpaca", "--out", out, before=before))
    assert "cannot write" in refusal(magpie("filter", run, "demo", before=before))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path, recipe: Path) -> None:
    tmp_path.chmod(0o500)
    said = refusal(magpie("build", recipe, "--out", tmp_path / "run"))
    assert "cannot write" in said
    assert "choose another folder with --out" in said


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    at = random.Random(len(data)).randrange(len(data))
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def noise(data: bytes) -> bytes:
    return random.Random(0).randbytes(len(data))


PLACES = ("steps/01-instruct/00002.parquet", "steps/04-dedup/00000.parquet", "dataset/train-00000.parquet")


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        *((place, damage) for place in PLACES for damage in (cut, flip)),
        (PLACES[1], empty),
        (PLACES[0], noise),
    ],
)
def test_a_damaged_file(
    recipe: Path, run: Path, whole: Path, place: str, damage: Callable[[bytes], bytes]
) -> None:
    """`verify` names it, `status` goes on, what must read it says so, and a build makes it again."""
    path = run / place
    path.write_bytes(damage(path.read_bytes()))
    found = magpie("verify", run)
    assert found.returncode == 1
    assert any(str(path) in line and "run the build again" in line for line in found.stderr.splitlines())
    assert "Traceback" not in found.stderr
    done(magpie("status", run))
    exported = magpie("export", run, "--format", "alpaca", "--out", run / "x.jsonl")
    if place.startswith("dataset"):
        assert str(path) in refusal(exported)
    else:
        done(exported)
    shown = magpie("show", run, "--rejected")
    if (place.startswith("steps") and damage is not flip) or shown.returncode:
        assert str(path) in refusal(shown)
    else:  # a bit turned where nothing was read: what is shown is what a whole run shows
        assert done(shown) == done(magpie("show", whole, "--rejected"))
    done(magpie("build", recipe, "--out", run))
    assert tree(run) == tree(whole)
    assert verify(Run.open(run)) == []
    if place.startswith("steps"):
        assert len(quarantined(Run.open(run))) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_gone(recipe: Path, run: Path, whole: Path, place: str) -> None:
    (run / place).unlink()
    found = magpie("verify", run)
    assert found.returncode == 1
    assert "run the build again" in found.stderr
    done(magpie("status", run))
    done(magpie("build", recipe, "--out", run))
    assert tree(run) == tree(whole)


def test_a_dataset_half_written(recipe: Path, run: Path, whole: Path) -> None:
    """Files of an earlier, longer dataset and a temporary file lie beside the first."""
    first = run / "dataset" / "train-00000.parquet"
    shutil.copy(first, first.with_name("train-00001.parquet"))
    first.with_name(".train-00000.parquet.0a1b2c3d.tmp").write_bytes(cut(first.read_bytes()))
    assert magpie("verify", run).returncode == 1
    done(magpie("build", recipe, "--out", run))
    assert tree(run) == tree(whole)
    assert verify(Run.open(run)) == []


@pytest.mark.parametrize("data", [b"", b"rows: [", b"[]", b"\xff\xfe\x00", b"7", b"rows: 96\n", None])
def test_a_recipe_of_a_run_that_cannot_be_read(
    recipe: Path, run: Path, whole: Path, data: bytes | None
) -> None:
    """It is had back from the shards, and every verb goes on, saying so."""
    (run / "recipe.yaml").unlink()
    if data is not None:
        (run / "recipe.yaml").write_bytes(data)
    found = magpie("verify", run)
    assert found.returncode == 1 and "recipe.yaml" in found.stderr
    for verb in ("status", "show"):
        said = magpie(verb, run)
        assert said.returncode == 0
        (line,) = said.stderr.splitlines()
        assert "recipe.yaml" in line and "run the build again" in line
    done(magpie("build", recipe, "--out", run))
    assert tree(run) == tree(whole)
    assert quarantined(Run.open(run)) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe\x00", b"7"])
def test_fingerprints_that_cannot_be_read(recipe: Path, run: Path, whole: Path, data: bytes) -> None:
    """They only inform: every shard carries its own."""
    (run / "fingerprints.json").write_bytes(data)
    done(magpie("status", run))
    done(magpie("build", recipe, "--out", run))
    assert (run / "fingerprints.json").read_bytes() == (whole / "fingerprints.json").read_bytes()
    assert tree(run) == tree(whole)
    assert quarantined(Run.open(run)) == []
