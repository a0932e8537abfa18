"""What the planner works out is what vLLM is given on a GPU; the CPU build is set as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magpie import shipped
from magpie.engines.vllm import settings
from magpie.engines.vllm.sizing import gpu_arguments
from magpie.errors import EngineError
from magpie.models import ModelFiles
from magpie.recipe import Model
from magpie.recipe.reading import read_yaml
from magpie.sizing.cards import find_card
from magpie.sizing.fit import fit
from magpie.sizing.shapes import shape_of

NAME = "meta-llama/Meta-Llama-3-8B-Instruct"
CARD = find_card("a100-80gb")


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    entries: list[dict[str, Any]] = read_yaml(shipped.folder("templates/models") / "shapes.yaml")
    (config,) = (entry["config"] for entry in entries if entry["source"] == NAME)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return ModelFiles(NAME, tmp_path, "local")


def given(model: Model, files: ModelFiles, memory: int = CARD.memory) -> dict[str, Any]:
    return gpu_arguments(model, files, device="NVIDIA A100-SXM4-80GB", memory=memory)


def test_an_engine_on_several_gpus_starts_its_own_processes(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside an actor of Ray's vLLM would ask Ray for them, which has one bundle with all GPUs of the engine."""
    monkeypatch.setattr(settings, "_tokenizer", lambda files, model: {})
    monkeypatch.setattr("magpie.machine.free_memory", lambda: 64 << 30)
    one, four = (Model(model=NAME, tensor_parallel=number) for number in (1, 4))
    assert "distributed_executor_backend" not in settings.engine_arguments(one, files, on_cpu=True)
    assert settings.engine_arguments(four, files, on_cpu=True)["distributed_executor_backend"] == "mp"


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_on_a_cpu_numbers_are_of_the_type_that_it_computes_in(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, dtype: str
) -> None:
    """On one without bfloat16 arithmetic, as in most laptops, float32 is several times as fast."""
    monkeypatch.setattr(settings, "_tokenizer", lambda files, model: {})
    monkeypatch.setattr("magpie.machine.free_memory", lambda: 64 << 30)
    monkeypatch.setattr("magpie.machine.computes_in_bfloat16", lambda: has_bfloat16)
    for asked, given in (("auto", dtype), ("bfloat16", "bfloat16"), ("float32", "float32")):
        arguments = settings.engine_arguments(Model(model=NAME, dtype=asked), files, on_cpu=True)
        assert arguments["dtype"] == given


def test_weights_take_the_memory_of_the_type_they_are_loaded_in(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 GB in the files, 32 GB in float32."""
    monkeypatch.setattr("magpie.machine.free_memory", lambda: 24 << 30)
    assert settings._cpu_cache_bytes(files, "bfloat16") == 3 << 30
    with pytest.raises(EngineError, match=r"32\.\d GB of memory to run"):
        settings._cpu_cache_bytes(files, "float32")


def test_the_engine_is_given_what_the_planner_works_out(files: ModelFiles) -> None:
    model = Model(model=NAME, row_tokens=600)
    shape = shape_of(model)
    assert shape is not None
    planned = fit(shape, CARD.memory, row_tokens=600, is_a100=True)
    assert given(model, files) == {
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": planned.slots,
        "max_num_batched_tokens": planned.batched_tokens,
        "cudagraph_capture_sizes": list(planned.graph_sizes),
    }


def test_a_recipe_overrides_each_of_them(files: ModelFiles) -> None:
    arguments = given(Model(model=NAME, slots=96, batched_tokens=4096, graph_sizes=(1, 96)), files)
    assert arguments["max_num_seqs"] == 96
    assert arguments["max_num_batched_tokens"] == 4096
    assert arguments["cudagraph_capture_sizes"] == [1, 96]
    assert given(Model(model=NAME, slots=96), files)["cudagraph_capture_sizes"][-1] == 96


def test_where_nothing_is_known_vllm_decides(files: ModelFiles, tmp_path: Path) -> None:
    assert given(Model(model=NAME), files, memory=0) == {"gpu_memory_utilization": 0.9, "max_num_seqs": 512}
    (tmp_path / "config.json").write_text("{}")
    asked = Model(model=NAME, slots=8, batched_tokens=4096)
    assert given(asked, files) == {
        "gpu_memory_utilization": 0.9, "max_num_seqs": 8, "max_num_batched_tokens": 4096,
    }  # fmt: skip


def test_vllm_knows_these_arguments(files: ModelFiles) -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    vllm.EngineArgs(model=str(files.path), **given(Model(model=NAME), files))


@pytest.mark.parametrize(
    ("free", "cache"),
    [
        (64 << 30, 8 << 30),
        (16 << 30, 2 << 30),
        (4 << 30, 1 << 30),
        (2 << 30, 512 << 20),
        (1 << 30, 256 << 20),
    ],
)
def test_on_a_cpu_the_cache_takes_a_share_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, cache: int
) -> None:
    monkeypatch.setattr("magpie.machine.free_memory", lambda: free)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(270 << 20)
    assert settings._cpu_cache_bytes(ModelFiles("demo", tmp_path, "local"), "bfloat16") == cache


def test_weights_that_do_not_fit_beside_a_cache_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(270 << 20)
    files = ModelFiles("demo", tmp_path, "local")
    monkeypatch.setattr("magpie.machine.free_memory", lambda: 750 << 20)
    assert settings._cpu_cache_bytes(files, "bfloat16") == 180 << 20  # all that is left
    monkeypatch.setattr("magpie.machine.free_memory", lambda: 650 << 20)
    with pytest.raises(EngineError, match=r"0\.7 GB of memory to run.*may take 0\.7 GB more.*language=null"):
        settings._cpu_cache_bytes(files, "bfloat16")
