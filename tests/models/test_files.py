"""Models in folders: what they are known by, and weights that cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from magpie.errors import ModelError
from magpie.models import resolve
from magpie.recipe import Model


def folder_of(path: Path, *, weights: str | None = "model.safetensors") -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text("{}")
    if weights:
        (path / weights).write_bytes(b"12345678")
    return path


def test_a_folder_is_known_by_its_names_sizes_and_contents(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first")
    files = resolve(Model(model=str(first)))
    assert files.path == first
    assert files.name == str(first)
    assert files.revision.startswith("local-")
    second = shutil.copytree(first, tmp_path / "second")
    assert resolve(Model(model=str(second))).revision == files.revision
    assert resolve(Model(model=str(second)), weights=False).revision == files.revision
    (second / ".git").mkdir()
    (second / ".git" / "HEAD").write_text("ref")
    assert resolve(Model(model=str(second))).revision == files.revision
    (second / "config.json").write_text('{"model_type": "qwen3"}')
    changed = resolve(Model(model=str(second))).revision
    (second / "model.safetensors").write_bytes(b"123456789")
    assert len({files.revision, changed, resolve(Model(model=str(second))).revision}) == 3


@pytest.mark.parametrize("size", [64, (8 << 20) + 1, 40 << 20])
def test_a_file_saved_over_one_of_the_same_size_is_another_revision(tmp_path: Path, size: int) -> None:
    folder = folder_of(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(size))
    found = {resolve(Model(model=str(folder))).revision}
    weights.write_bytes(bytes([1]) + bytes(size - 1))  # another header
    found.add(resolve(Model(model=str(folder))).revision)
    weights.write_bytes(bytes(size - 1) + bytes([1]))  # another end
    found.add(resolve(Model(model=str(folder))).revision)
    weights.write_bytes(bytes(size - size // 2) + bytes([1]) * (size // 2))  # other tensors
    found.add(resolve(Model(model=str(folder))).revision)
    (folder / "merges.txt").write_text("a b")
    found.add(resolve(Model(model=str(folder))).revision)
    (folder / "merges.txt").write_text("b a")
    found.add(resolve(Model(model=str(folder))).revision)
    assert len(found) == 6


def test_a_pinned_folder_that_changed_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    revision = resolve(Model(model=str(folder))).revision
    assert resolve(Model(model=str(folder), revision=revision)).revision == revision
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"asks for {revision}"):
        resolve(Model(model=str(folder), revision=revision))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, weights: str) -> None:
    folder = folder_of(tmp_path / "model", weights=weights)
    with pytest.raises(ModelError, match=f"not safetensors .{weights}"):
        resolve(Model(model=str(folder)))
    assert resolve(Model(model=str(folder)), weights=False).path == folder


def test_a_folder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", weights=None)
    with pytest.raises(ModelError, match="no weights"):
        resolve(Model(model=str(folder)))
    (folder / "model-1.safetensors").write_bytes(b"1")
    parts = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ModelError, match=r"1 of its 2 weight files, model-2\.safetensors"):
        resolve(Model(model=str(folder)))


def test_a_damaged_weight_index_is_one_clear_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text("{ cut")
    with pytest.raises(ModelError, match="index"):
        resolve(Model(model=str(folder)))


def test_a_folder_or_file_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        resolve(Model(model=str(tmp_path)), weights=False)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        resolve(Model(model=str(tmp_path / "model.safetensors")))


def test_strange_things_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    revision = resolve(Model(model=str(folder))).revision
    (folder / "gone.safetensors").symlink_to(tmp_path / "blobs" / "pruned")
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(folder / "pipe.json")
    assert resolve(Model(model=str(folder))).revision == revision
