"""The server engine and a real `vllm serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agreement import agreement, prompts, written
from asking import free_port
from controls import LOOPING

from magpie.chat import ChatFormat
from magpie.engines.base import Completion, Sampling
from magpie.engines.server import ServerEngine
from magpie.models import ModelFiles, resolve
from magpie.recipe import Model, Server

Ids = list[list[int]]


@pytest.fixture(scope="module")
def demo() -> ModelFiles:
    return resolve(Model(model="demo"))


@pytest.fixture(scope="module")
def reference(demo: ModelFiles) -> Ids:
    """What transformers writes, alone on the machine: the server starts afterwards."""
    chat = ChatFormat.from_model(Model(model="demo"))
    settings = Model(model="demo", engine="transformers", dtype="float32", context_length=256)
    return written(settings, demo, prompts(chat), chat)


@pytest.fixture(scope="module")
def vllm_url(demo: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `vllm serve` in a process group of its own; the group is ended afterwards, to the last process."""
    pytest.importorskip("vllm")
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    options = (
        "--enforce-eager --dtype float32 --max-model-len 2048 --kv-cache-memory-bytes 1G --max-num-seqs 16"
    )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(demo.path)]
    command += ["--host", "127.0.0.1", "--port", str(port), *options.split()]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)
    try:
        wait_for_health(port, child, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end_group(child)


def wait_for_health(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(900):
        assert child.poll() is None, f"vllm serve ended early: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not come up: {log.read_text()[-2000:]}")


def members(group: int) -> set[int]:
    """The living processes of a process group, zombies aside."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


def end_group(child: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 200)):
        if not members(child.pid):
            break
        os.killpg(child.pid, number)
        for _ in range(patience):
            child.poll()
            if not members(child.pid):
                break
            time.sleep(0.1)
    child.wait(timeout=30)
    assert not members(child.pid), "a process of vllm serve is still alive"


@pytest.mark.slow
def test_it_writes_what_transformers_writes(demo: ModelFiles, reference: Ids, vllm_url: str) -> None:
    chat = ChatFormat.from_model(Model(model="demo"))
    model = Model(model="demo", engine="server", server=Server(url=vllm_url))
    share = agreement(reference, written(model, demo, prompts(chat), chat))
    print(f"agreement of transformers and vllm serve: {share:.4f} in float32")
    assert share >= 0.97


@pytest.mark.slow
def test_it_completes_stops_keeps_to_a_schema_and_ends_repetitions(demo: ModelFiles, vllm_url: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.path)

    def chat(question: str) -> list[int]:
        asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return list(tokenizer.encode(asked, add_special_tokens=False))

    def greedy(**settings: Any) -> Sampling:
        return Sampling(**({"max_tokens": 32, "seed": 0, "temperature": 0.0} | settings))

    france = chat("What is the capital of France?")
    schema = {
        "type": "object",
        "properties": {"quality": {"enum": ["poor", "good"]}},
        "required": ["quality"],
    }
    paris = tokenizer.encode(" Paris", add_special_tokens=False)[0]
    looping = list(tokenizer.encode(LOOPING[0], add_special_tokens=False))
    settings = Model(model="demo", server=Server(url=vllm_url))

    async def go() -> list[Completion]:
        engine = await ServerEngine.open(settings, demo)
        assert engine.model.context_length == 2048
        assert engine.model.controls == {"stop_repetition"}
        try:
            return await asyncio.gather(
                engine.complete(france, greedy()),
                engine.complete(france, greedy(stop_ids=(paris,))),
                engine.complete(france, greedy(stop=("Paris",))),
                engine.complete(france, greedy(max_tokens=3)),
                engine.complete(france, greedy(schema=json.dumps(schema))),
                engine.complete(looping, greedy(max_tokens=320, stop_repetition=True)),
                engine.complete(france, Sampling(max_tokens=16, seed=1)),
                engine.complete(france, Sampling(max_tokens=16, seed=1)),
            )
        finally:
            await engine.close()

    whole, by_id, by_text, cut, kept, ended, drawn, again = asyncio.run(go())
    assert "Paris" in whole.text
    assert (by_id.finish_reason, by_text.finish_reason, cut.finish_reason) == ("stop", "stop", "length")
    assert whole.text.startswith(by_id.text)
    assert "Paris" not in by_id.text + by_text.text
    assert cut.token_count == 3
    assert json.loads(kept.text)["quality"] in {"poor", "good"}
    assert ended.finish_reason == "repetition"
    assert ended.token_count < 160
    assert drawn == again
