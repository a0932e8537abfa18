"""The table of engines: what each can do, which one a machine has, and what is said where one cannot be had."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from builds import small_recipe
from tokenizers_made import CHATML, small

from magpie.build import build
from magpie.engines import base, engine_names, find_engine, open_engine, open_scorer
from magpie.engines.base import CONTROLS
from magpie.errors import EngineError, RecipeError, ServerError
from magpie.plan import make_plan
from magpie.recipe import Model, Script, Server

ENGINES = engine_names()[1:]
SERVER = Server(url="http://127.0.0.1:1/v1")

CAN = {
    "vllm": {"writes", "scores", "structured_outputs", "separate_process", "loads_weights", "loads_files"},
    "transformers": {"writes", "scores", "structured_outputs", "loads_weights", "loads_files"},
    "server": {"writes", "structured_outputs", "loads_files"},
    "scripted": {"writes", "scores", "structured_outputs"},
}


def test_the_engines_are_those_of_the_table_and_auto_comes_first() -> None:
    assert engine_names() == ("auto", *CAN)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_can_do_what_the_table_says(name: str) -> None:
    spec = find_engine(name)
    assert spec.name == name
    every = {"writes", "scores", "structured_outputs", "separate_process", "loads_weights", "loads_files"}
    assert {what for what in every if getattr(spec.capabilities, what)} == CAN[name]
    assert spec.capabilities.controls == ({"stop_repetition"} if name == "server" else CONTROLS)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_what_its_capabilities_call_for(name: str) -> None:
    spec = find_engine(name)
    assert (spec.open_scorer is not None) == spec.capabilities.scores
    # What loads no files brings a tokenizer, and says what decides its texts.
    assert (spec.tokenizer is None) == (spec.identity is None) == spec.capabilities.loads_files
    assert (spec.package is None) == (spec.install == "")


def test_an_engine_that_there_is_not_is_refused_by_its_name() -> None:
    listed = r"use one of: auto, vllm, transformers, server, scripted$"
    with pytest.raises(RecipeError, match=rf"^there is no engine 'sglang'; {listed}"):
        find_engine("sglang")
    for changes in ({"engine": "sglang"}, {"models": {"generator": {"model": "x", "engine": "sglang"}}}):
        with pytest.raises(RecipeError, match="there is no engine 'sglang'"):
            make_plan(small_recipe(**{"embed": None, "dedup": None, "tag": None, "filter": None} | changes))
    in_no_step = {"model": "x", "engine": "sglang"}
    models = {"generator": "scripted", "judge": "generator", "embedder": "scripted", "unused": in_no_step}
    with pytest.raises(RecipeError, match="there is no engine 'sglang'"):
        make_plan(small_recipe(models=models))


@pytest.mark.parametrize(("installed", "name"), [(True, "vllm"), (False, "transformers")])
@pytest.mark.parametrize("wish", ["auto", None])
def test_auto_is_the_first_that_is_installed_and_loads_weights(
    wish: str | None, installed: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda package: installed or None)
    assert find_engine(wish).name == name
    assert find_engine("vllm").is_installed is installed
    assert find_engine("server").is_installed


def test_an_engine_that_is_not_installed_is_found_and_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda package: None)
    model = Model(model="demo", engine="vllm")
    for opened in (open_engine, open_scorer):
        with pytest.raises(EngineError, match=r"vllm is not installed; install magpie-synth\[cpu\]"):
            asyncio.run(opened(model))
    assert make_plan(small_recipe(engine="vllm"))  # a recipe is planned on one machine and built on another


def test_a_build_that_lacks_an_engine_of_a_later_phase_ends_before_its_first_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda package: None)
    judge = {"model": small(tmp_path / "judge", CHATML), "engine": "vllm"}
    models = {"generator": "scripted", "judge": judge, "embedder": "scripted"}
    with pytest.raises(EngineError, match="vllm is not installed"):
        build(small_recipe(models=models), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_server_that_is_nowhere_is_a_problem_of_the_settings() -> None:
    problem = find_engine("server").problem
    nowhere = Model(model="x", engine="server")
    said = (
        "`models.judge` is asked of a server and `models.judge.server.url` is missing; add it, such as http"
    )
    assert (problem(nowhere, "models.judge") or "").startswith(said)
    assert problem(nowhere.model_copy(update={"server": SERVER}), "models.judge") is None
    with pytest.raises(ServerError, match="has no server to ask; give it `server: "):
        asyncio.run(find_engine("server").open(nowhere, None))


@pytest.mark.parametrize("name", sorted({*ENGINES} - {"server"}))
def test_no_other_engine_has_a_problem_with_its_settings(name: str) -> None:
    assert find_engine(name).problem(Model(model="x", engine=name), "models.x") is None


def test_what_decides_a_scripted_text_is_its_script() -> None:
    identity = find_engine("scripted").identity
    assert identity is not None
    one, same, other = (
        identity(Model(model="scripted", engine="scripted", script=Script(max_tokens=most)))
        for most in (32, 32, 33)
    )
    assert one == same != other


def test_the_table_is_read_without_loading_an_engine() -> None:
    heavy = "{'torch', 'transformers', 'vllm', 'sentence_transformers'}"
    script = (
        "import sys\n"
        "from magpie.engines import engine_names, find_engine\n"
        "specs = [find_engine(name) for name in engine_names()]\n"
        "assert all(spec.is_installed or spec.package for spec in specs)\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
